-- The second step to messages by month: the keys and numbers that were taken before, and proof of what the first step
-- demands.
INSERT INTO message_keys (tenant_id, session_id, key, message_id)
    SELECT tenant_id, session_id, idempotency_key, id FROM messages WHERE idempotency_key IS NOT NULL
    ON CONFLICT DO NOTHING;
INSERT INTO message_keys (tenant_id, session_id, key, message_id)
    SELECT tenant_id, '', platform_id, id FROM messages WHERE platform_id IS NOT NULL
    ON CONFLICT DO NOTHING;
ALTER TABLE messages VALIDATE CONSTRAINT messages_edge;
