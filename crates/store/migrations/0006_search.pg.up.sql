-- The words of blocks of consecutive messages, dealt into buckets, with a space before and after each word.
CREATE TABLE search_blocks (
    tenant_id TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    bucket    BIGINT NOT NULL,
    first_id  TEXT   NOT NULL,
    last_id   TEXT   NOT NULL,
    words     TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, bucket, first_id)
);
ALTER TABLE search_blocks ENABLE ROW LEVEL SECURITY;
ALTER TABLE search_blocks FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON search_blocks USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);
