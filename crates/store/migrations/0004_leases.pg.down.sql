DROP VIEW database_clock;
DROP TABLE leases;
