-- Who alone may do something for a while: a tenant's queue, the bots. A row stays when nobody holds it, so that its
-- epoch only ever grows.
CREATE TABLE leases (
    name       TEXT   NOT NULL PRIMARY KEY,
    owner      TEXT   NOT NULL,
    url        TEXT   NOT NULL,
    epoch      BIGINT NOT NULL CHECK (epoch >= 1),
    expires_at BIGINT NOT NULL
);
CREATE INDEX leases_owner ON leases (owner);

-- The time of the database, in microseconds since 1970.
CREATE VIEW database_clock AS SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER) AS micros;
