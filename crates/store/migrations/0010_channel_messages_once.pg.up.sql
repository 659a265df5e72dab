-- apart: no transaction
-- One open session a conversation, and each message of a channel once.

DROP INDEX CONCURRENTLY IF EXISTS sessions_umo;
CREATE UNIQUE INDEX CONCURRENTLY sessions_umo ON sessions (tenant_id, umo) WHERE umo IS NOT NULL AND state <> 'closed';
DROP INDEX CONCURRENTLY IF EXISTS messages_platform_id;
CREATE UNIQUE INDEX CONCURRENTLY messages_platform_id ON messages (tenant_id, platform_id) WHERE platform_id IS NOT NULL;
