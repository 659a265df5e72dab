ALTER TABLE messages DROP CONSTRAINT IF EXISTS messages_edge;
DROP TRIGGER take_key ON messages;
DROP TRIGGER free_key ON messages;
DROP FUNCTION astrfleet_take_message_key;
DROP FUNCTION astrfleet_free_message_key;
DROP FUNCTION astrfleet_message_edge;
DROP TABLE message_keys;
