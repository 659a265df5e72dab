-- Budgets that several replicas use up together, and notices of quotas.

-- What was spent of a quota in one period, and the number that the last lease on it got.
CREATE TABLE budget_accounts (
    tenant_id  TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    account    TEXT   NOT NULL,
    period     BIGINT NOT NULL,
    spent      BIGINT NOT NULL CHECK (spent >= 0),
    fence      BIGINT NOT NULL,
    counted_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, account, period)
);

-- Which replica may spend how much of what is left, and until when by this database's clock.
CREATE TABLE budget_leases (
    tenant_id  TEXT   NOT NULL,
    account    TEXT   NOT NULL,
    period     BIGINT NOT NULL,
    holder     TEXT   NOT NULL,
    fence      BIGINT NOT NULL,
    tokens     BIGINT NOT NULL CHECK (tokens >= 0),
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, account, period, holder),
    FOREIGN KEY (tenant_id, account, period) REFERENCES budget_accounts (tenant_id, account, period) ON DELETE CASCADE
);

-- What a tenant was told of its quotas: once a period.
CREATE TABLE quota_notices (
    tenant_id TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    quota     TEXT   NOT NULL,
    period    BIGINT NOT NULL,
    level     TEXT   NOT NULL CHECK (level IN ('warning', 'burst', 'exhausted')),
    told_at   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, quota, period, level)
);
