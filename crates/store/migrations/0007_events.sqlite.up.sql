-- What happened, told in the transaction in which it happened.

-- How many places of a tenant's sequence are taken. Whoever takes one holds the row until their transaction ends.
CREATE TABLE event_heads (
    tenant_id TEXT   NOT NULL PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    seq       BIGINT NOT NULL CHECK (seq >= 1)
);

-- `data` is a JSON object: ids and states, never what somebody wrote. A message may be gone before the event that tells
-- of it, and a row costs no look at another table: so it refers to none.
CREATE TABLE events (
    tenant_id  TEXT   NOT NULL,
    seq        BIGINT NOT NULL CHECK (seq >= 1),
    session_id TEXT,
    message_id TEXT,
    kind       TEXT   NOT NULL,
    data       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, seq)
);
CREATE INDEX events_session ON events (tenant_id, session_id, seq) WHERE session_id IS NOT NULL;
CREATE INDEX events_created_at ON events (created_at);
