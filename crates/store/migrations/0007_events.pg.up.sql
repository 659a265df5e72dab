-- What happened, told in the transaction in which it happened.

-- How many places of a tenant's sequence are taken. Whoever takes one holds the row until their transaction ends.
-- It changes all the time: a page keeps room for its next versions.
CREATE TABLE event_heads (
    tenant_id TEXT   NOT NULL PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    seq       BIGINT NOT NULL CHECK (seq >= 1)
) WITH (fillfactor = 40);

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

ALTER TABLE event_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON event_heads USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON events USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);
