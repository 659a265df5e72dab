-- How many days a tenant keeps what was said; empty: as its plan says.
ALTER TABLE tenants ADD COLUMN retention_days BIGINT;
