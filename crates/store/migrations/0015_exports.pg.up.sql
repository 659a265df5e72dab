-- Exports of tenants. `attempts` counts how often one was begun: whoever writes for an earlier one changes nothing.
CREATE TABLE exports (
    tenant_id    TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id           TEXT   NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed')),
    attempts     BIGINT NOT NULL,
    done         BIGINT NOT NULL,
    total        BIGINT NOT NULL,
    requested_by TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    size_bytes   BIGINT,
    sha256       TEXT,
    failure      TEXT,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX exports_open ON exports (id) WHERE state IN ('pending', 'running');
CREATE INDEX exports_expires_at ON exports (expires_at);
ALTER TABLE exports ENABLE ROW LEVEL SECURITY;
ALTER TABLE exports FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON exports USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);
