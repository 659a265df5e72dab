-- Tenants, people and what they log in with, bots, the audit log, kept answers.
-- Times are microseconds since 1970, UTC; ids are prefixed and sort by time; hashes are SHA-256 in hex.

CREATE TABLE tenants (
    id           TEXT   NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL UNIQUE,
    display_name TEXT   NOT NULL,
    email        TEXT   NOT NULL UNIQUE CHECK (email = lower(email)),
    plan         TEXT   NOT NULL,
    status       TEXT   NOT NULL CHECK (status IN ('active', 'suspended', 'deleting')),
    erase_at     BIGINT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    CHECK ((status = 'deleting') = (erase_at IS NOT NULL))
);
CREATE INDEX tenants_erase_at ON tenants (erase_at) WHERE erase_at IS NOT NULL;

CREATE TABLE users (
    id             TEXT    NOT NULL PRIMARY KEY,
    email          TEXT    NOT NULL UNIQUE CHECK (email = lower(email)),
    display_name   TEXT    NOT NULL,
    password_hash  TEXT    NOT NULL,
    platform_admin BOOLEAN NOT NULL,
    disabled       BOOLEAN NOT NULL,
    created_at     BIGINT  NOT NULL,
    updated_at     BIGINT  NOT NULL,
    version        BIGINT  NOT NULL
);

CREATE TABLE refresh_tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    login_id   TEXT   NOT NULL,
    user_id    TEXT   NOT NULL REFERENCES users (id),
    hash       TEXT   NOT NULL UNIQUE,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT,
    revoked_at BIGINT
);
CREATE INDEX refresh_tokens_login ON refresh_tokens (login_id);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

CREATE TABLE members (
    tenant_id  TEXT   NOT NULL REFERENCES tenants (id),
    user_id    TEXT   NOT NULL REFERENCES users (id),
    role       TEXT   NOT NULL CHECK (role IN ('viewer', 'agent', 'admin', 'owner')),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX members_user ON members (user_id);

CREATE TABLE invitations (
    tenant_id   TEXT   NOT NULL REFERENCES tenants (id),
    id          TEXT   NOT NULL,
    email       TEXT   NOT NULL,
    role        TEXT   NOT NULL CHECK (role IN ('viewer', 'agent', 'admin', 'owner')),
    invited_by  TEXT   NOT NULL,
    token_hash  TEXT   NOT NULL UNIQUE,
    expires_at  BIGINT NOT NULL,
    accepted_at BIGINT,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

-- `scopes` is a JSON array.
CREATE TABLE api_keys (
    tenant_id    TEXT   NOT NULL REFERENCES tenants (id),
    id           TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    prefix       TEXT   NOT NULL,
    hash         TEXT   NOT NULL UNIQUE,
    scopes       TEXT   NOT NULL,
    created_by   TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    revoked_at   BIGINT,
    PRIMARY KEY (tenant_id, id)
);

-- One bot a tenant, and never two on one port.
CREATE TABLE instances (
    tenant_id       TEXT   NOT NULL UNIQUE REFERENCES tenants (id),
    id              TEXT   NOT NULL UNIQUE,
    desired         TEXT   NOT NULL CHECK (desired IN ('running', 'stopped', 'deleted')),
    observed        TEXT   NOT NULL CHECK (observed IN (
        'pending', 'provisioning', 'starting', 'running', 'degraded', 'hibernated', 'waking', 'updating', 'restoring',
        'suspended', 'failed', 'deleting'
    )),
    generation      BIGINT NOT NULL,
    reason          TEXT   NOT NULL,
    since           BIGINT NOT NULL,
    version         TEXT   NOT NULL,
    port            BIGINT UNIQUE CHECK (port BETWEEN 1 AND 65535),
    restarts        BIGINT NOT NULL CHECK (restarts >= 0),
    secrets_version BIGINT NOT NULL CHECK (secrets_version >= 0),
    created_at      BIGINT NOT NULL,
    version_lock    BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

-- `log` is a tenant's id, or `platform`. The key keeps two writers from making two chains of one.
CREATE TABLE audit_log (
    log           TEXT   NOT NULL,
    seq           BIGINT NOT NULL CHECK (seq >= 1),
    id            TEXT   NOT NULL,
    at            BIGINT NOT NULL,
    actor         TEXT   NOT NULL,
    action        TEXT   NOT NULL,
    target        TEXT   NOT NULL,
    detail        TEXT   NOT NULL,
    request_id    TEXT   NOT NULL,
    hash          TEXT   NOT NULL,
    previous_hash TEXT   NOT NULL,
    PRIMARY KEY (log, seq)
);

-- The end of each chain: whoever appends holds its row until the entry is in, and an entry taken off the end is missed.
CREATE TABLE audit_heads (
    log  TEXT   NOT NULL PRIMARY KEY,
    seq  BIGINT NOT NULL,
    hash TEXT   NOT NULL
);

-- `status` and `body` are missing while the request is being worked on.
CREATE TABLE idempotency (
    owner           TEXT   NOT NULL,
    idempotency_key TEXT   NOT NULL,
    request_hash    TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    status          BIGINT,
    body            TEXT,
    PRIMARY KEY (owner, idempotency_key),
    CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_created_at ON idempotency (created_at);
