-- All months become one table again: what is not in the first one is copied.
DROP FUNCTION astrfleet_make_message_month;
DROP FUNCTION astrfleet_drop_message_months;
DROP FUNCTION astrfleet_free_message_keys;
DO $$
DECLARE
    one RECORD;
BEGIN
    IF to_regclass('messages_begin') IS NULL THEN
        CREATE TABLE messages_begin (LIKE messages_rest INCLUDING ALL);
        ALTER TABLE messages_begin
            ADD FOREIGN KEY (tenant_id, session_id) REFERENCES sessions (tenant_id, id) ON DELETE CASCADE;
        ALTER TABLE messages_begin ENABLE ROW LEVEL SECURITY;
        ALTER TABLE messages_begin FORCE ROW LEVEL SECURITY;
        CREATE POLICY scope ON messages_begin USING (
            tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
            OR (SELECT current_setting('astrfleet.scope', true)) = '*'
        );
    ELSE
        ALTER TABLE messages DETACH PARTITION messages_begin;
    END IF;
    INSERT INTO messages_begin SELECT * FROM messages;
    DROP TABLE messages;
    ALTER TABLE messages_begin RENAME TO messages;
    FOR one IN SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = 'messages'::regclass
    LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', one.relname, replace(one.relname, 'messages_begin', 'messages'));
    END LOOP;
    CREATE TRIGGER take_key BEFORE INSERT ON messages FOR EACH ROW
        WHEN (NEW.idempotency_key IS NOT NULL OR NEW.platform_id IS NOT NULL)
        EXECUTE FUNCTION astrfleet_take_message_key();
    CREATE TRIGGER free_key AFTER DELETE ON messages FOR EACH ROW
        WHEN (OLD.idempotency_key IS NOT NULL OR OLD.platform_id IS NOT NULL)
        EXECUTE FUNCTION astrfleet_free_message_key();
END $$;

-- As the step before left it, so that this one can be made again. What came for later months lies below the edge, too.
DO $$
DECLARE
    edge TEXT := astrfleet_message_edge((date_trunc('month', now() AT TIME ZONE 'UTC')
        + CASE WHEN EXISTS (SELECT 1 FROM tenants) THEN interval '6 months' ELSE interval '2 months' END)::date);
    newest TEXT;
BEGIN
    SELECT max(id COLLATE "C") INTO newest FROM messages;
    IF newest COLLATE "C" >= edge COLLATE "C" THEN
        edge := 'msg_' || lpad(to_hex(('x' || substr(newest, 5, 12))::bit(48)::bigint + 1), 12, '0');
    END IF;
    EXECUTE format('ALTER TABLE messages ADD CONSTRAINT messages_edge CHECK (id IS NOT NULL AND id < %L)', edge);
END $$;
