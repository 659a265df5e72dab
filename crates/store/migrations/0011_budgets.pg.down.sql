DROP TABLE quota_notices;
DROP TABLE budget_leases;
DROP TABLE budget_accounts;
