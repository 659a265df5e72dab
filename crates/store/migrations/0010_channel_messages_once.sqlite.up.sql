-- One open session a conversation, and each message of a channel once.

CREATE UNIQUE INDEX sessions_umo ON sessions (tenant_id, umo) WHERE umo IS NOT NULL AND state <> 'closed';
CREATE UNIQUE INDEX messages_platform_id ON messages (tenant_id, platform_id) WHERE platform_id IS NOT NULL;
