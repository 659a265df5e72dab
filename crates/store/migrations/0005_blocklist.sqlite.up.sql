-- Whom a tenant does not want to hear from. `channel` is empty for every channel.
CREATE TABLE blocklist (
    tenant_id     TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id            TEXT   NOT NULL,
    channel       TEXT   NOT NULL,
    end_user      TEXT   NOT NULL,
    reason        TEXT,
    blocked_until BIGINT,
    created_by    TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, channel, end_user)
);
