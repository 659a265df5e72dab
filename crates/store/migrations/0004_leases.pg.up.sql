-- Who alone may do something for a while: a tenant's queue, the bots. The rows are the platform's: they say nothing of
-- anybody. A row stays when nobody holds it, so that its epoch only ever grows. Rows change every few seconds: half of
-- each page is kept free for that, and no index stands on what changes.
CREATE TABLE leases (
    name       TEXT   NOT NULL PRIMARY KEY,
    owner      TEXT   NOT NULL,
    url        TEXT   NOT NULL,
    epoch      BIGINT NOT NULL CHECK (epoch >= 1),
    expires_at BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX leases_owner ON leases (owner);

-- The time of the database, in microseconds since 1970: the same for all processes, whatever their clocks say.
CREATE VIEW database_clock AS SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT AS micros;
