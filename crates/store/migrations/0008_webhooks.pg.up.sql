-- Where tenants are told of what happens. `kinds` is a JSON array, empty for all; secrets are sealed. `seen_seq` is the place
-- of the last event whose deliveries stand in the other table.
CREATE TABLE webhooks (
    tenant_id             TEXT    NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id                    TEXT    NOT NULL,
    url                   TEXT    NOT NULL,
    kinds                 TEXT    NOT NULL,
    description           TEXT    NOT NULL,
    enabled               BOOLEAN NOT NULL,
    disabled_reason       TEXT    CHECK (disabled_reason IN ('failing', 'gone')),
    failing_since         BIGINT,
    secret                TEXT    NOT NULL,
    previous_secret       TEXT,
    previous_secret_until BIGINT,
    seen_seq              BIGINT  NOT NULL,
    created_at            BIGINT  NOT NULL,
    updated_at            BIGINT  NOT NULL,
    version               BIGINT  NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

-- One event for one webhook. `order_key` is the session, and missing where the order does not matter. `claimed_until` is by
-- the clock of the database, all other times by that of whoever wrote them.
CREATE TABLE webhook_deliveries (
    tenant_id       TEXT   NOT NULL,
    id              TEXT   NOT NULL,
    webhook_id      TEXT   NOT NULL,
    event_seq       BIGINT NOT NULL,
    kind            TEXT   NOT NULL,
    session_id      TEXT,
    order_key       TEXT,
    state           TEXT   NOT NULL CHECK (state IN ('pending', 'succeeded', 'failed')),
    attempts        BIGINT NOT NULL,
    next_attempt_at BIGINT,
    claimed_until   BIGINT,
    response_status BIGINT,
    response_body   TEXT,
    error           TEXT,
    replay_of       TEXT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id) ON DELETE CASCADE,
    CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL))
);
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (tenant_id, webhook_id, id);
CREATE UNIQUE INDEX webhook_deliveries_event ON webhook_deliveries (tenant_id, webhook_id, event_seq)
    WHERE replay_of IS NULL;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_order ON webhook_deliveries (tenant_id, webhook_id, order_key, event_seq)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (updated_at) WHERE state <> 'pending';

ALTER TABLE webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON webhooks USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);

ALTER TABLE webhook_deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON webhook_deliveries USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);
