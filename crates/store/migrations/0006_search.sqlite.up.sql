-- The words of blocks of consecutive messages, dealt into buckets, with a space before and after each word.
CREATE TABLE search_blocks (
    tenant_id TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    bucket    BIGINT NOT NULL,
    first_id  TEXT   NOT NULL,
    last_id   TEXT   NOT NULL,
    words     TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, bucket, first_id)
);
