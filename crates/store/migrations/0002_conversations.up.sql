-- Sessions, messages, attachments and the usage ledger.
-- What belongs to a tenant goes with it.

-- `metadata` is a JSON object.
CREATE TABLE sessions (
    tenant_id      TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id             TEXT   NOT NULL,
    end_user       TEXT   NOT NULL,
    channel        TEXT   NOT NULL,
    state          TEXT   NOT NULL CHECK (state IN ('bot', 'waiting', 'active', 'closed')),
    close_reason   TEXT   CHECK (close_reason IN ('closed', 'idle')),
    metadata       TEXT   NOT NULL,
    generation     BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    last_active_at BIGINT NOT NULL,
    version        BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX sessions_end_user ON sessions (tenant_id, end_user, id);
CREATE INDEX sessions_idle ON sessions (last_active_at) WHERE state <> 'closed';

-- `attachments` is a JSON array of ids. `bot_record` is the bot's own number of the message; `partial` is the answer as
-- far as it came, kept for the repair.
CREATE TABLE messages (
    tenant_id         TEXT   NOT NULL,
    id                TEXT   NOT NULL,
    session_id        TEXT   NOT NULL,
    author            TEXT   NOT NULL CHECK (author IN ('user', 'bot', 'agent')),
    body              TEXT   NOT NULL,
    attachments       TEXT   NOT NULL,
    state             TEXT   NOT NULL CHECK (state IN (
        'accepted', 'delivering', 'streaming', 'done', 'interrupted', 'failed', 'blocked'
    )),
    reply_to          TEXT,
    failure_code      TEXT,
    failure_detail    TEXT,
    prompt_tokens     BIGINT,
    completion_tokens BIGINT,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    idempotency_key   TEXT,
    idempotency_hash  TEXT,
    bot_record        BIGINT,
    partial           TEXT   NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES sessions (tenant_id, id) ON DELETE CASCADE,
    CHECK ((idempotency_key IS NULL) = (idempotency_hash IS NULL)),
    CHECK ((failure_code IS NULL) = (failure_detail IS NULL)),
    CHECK ((prompt_tokens IS NULL) = (completion_tokens IS NULL))
);
CREATE INDEX messages_session ON messages (tenant_id, session_id, id);
CREATE UNIQUE INDEX messages_idempotency ON messages (tenant_id, session_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
-- Nothing is ever answered twice.
CREATE UNIQUE INDEX messages_reply ON messages (tenant_id, reply_to) WHERE reply_to IS NOT NULL;
CREATE INDEX messages_of_end_users ON messages (tenant_id, created_at) WHERE author = 'user';
CREATE INDEX messages_bot_record ON messages (tenant_id, session_id, bot_record) WHERE bot_record IS NOT NULL;
-- What is still to be done: a handful of rows at any time.
CREATE INDEX messages_open ON messages (state, id) WHERE state IN ('accepted', 'delivering', 'streaming');
CREATE INDEX messages_interrupted ON messages (updated_at) WHERE state = 'interrupted' AND reply_to IS NULL;

CREATE TABLE attachments (
    tenant_id  TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id         TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    media_type TEXT   NOT NULL,
    size_bytes BIGINT NOT NULL CHECK (size_bytes >= 0),
    sha256     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

-- Lines are added, never changed.
CREATE TABLE usage_records (
    tenant_id         TEXT    NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id                TEXT    NOT NULL,
    instance_id       TEXT    NOT NULL,
    upstream          TEXT    NOT NULL,
    model             TEXT    NOT NULL,
    prompt_tokens     BIGINT  NOT NULL CHECK (prompt_tokens >= 0),
    completion_tokens BIGINT  NOT NULL CHECK (completion_tokens >= 0),
    estimated         BOOLEAN NOT NULL,
    outcome           TEXT    NOT NULL CHECK (outcome IN ('complete', 'aborted', 'failed')),
    at                BIGINT  NOT NULL,
    duration_ms       BIGINT  NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX usage_records_at ON usage_records (tenant_id, at);
