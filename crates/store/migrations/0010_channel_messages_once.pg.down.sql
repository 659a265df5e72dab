-- apart: no transaction

DROP INDEX CONCURRENTLY IF EXISTS messages_platform_id;
DROP INDEX CONCURRENTLY IF EXISTS sessions_umo;
