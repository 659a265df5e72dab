-- The last step to messages by month: a partition each, by the time with which their ids begin. What there is becomes the
-- first one, and is neither copied nor read. What belongs to no month yet goes to `messages_rest`: an insert never
-- fails. Months are made ahead, and dropped, by functions that act as the owner of the tables, which the program need
-- not be.
--
-- Each partition has the unique indexes of its own. An answer is unique beyond them since whoever ends a message holds
-- its row; a key and an IM platform's number, since they are taken in `message_keys`.

DO $$
DECLARE
    definitions TEXT[];
    definition TEXT;
    one RECORD;
    upper_edge TEXT;
BEGIN
    SELECT array_agg(pg_get_indexdef(indexrelid) ORDER BY indexrelid) INTO definitions
        FROM pg_index WHERE indrelid = 'messages'::regclass AND NOT indisunique;
    SELECT substring(pg_get_constraintdef(oid) FROM 'msg_[0-9a-f]+') INTO upper_edge
        FROM pg_constraint WHERE conname = 'messages_edge' AND conrelid = 'messages'::regclass;
    FOR one IN SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = 'messages'::regclass
    LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', one.relname, replace(one.relname, 'messages', 'messages_begin'));
    END LOOP;
    DROP TRIGGER take_key ON messages;
    DROP TRIGGER free_key ON messages;
    ALTER TABLE messages RENAME TO messages_begin;

    CREATE TABLE messages (LIKE messages_begin INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (id);
    ALTER TABLE messages DROP CONSTRAINT messages_edge;
    ALTER TABLE messages ADD PRIMARY KEY (tenant_id, id);
    ALTER TABLE messages ADD FOREIGN KEY (tenant_id, session_id) REFERENCES sessions (tenant_id, id) ON DELETE CASCADE;
    FOREACH definition IN ARRAY definitions LOOP
        EXECUTE definition;
    END LOOP;
    CREATE TRIGGER take_key BEFORE INSERT ON messages FOR EACH ROW
        WHEN (NEW.idempotency_key IS NOT NULL OR NEW.platform_id IS NOT NULL)
        EXECUTE FUNCTION astrfleet_take_message_key();
    CREATE TRIGGER free_key AFTER DELETE ON messages FOR EACH ROW
        WHEN (OLD.idempotency_key IS NOT NULL OR OLD.platform_id IS NOT NULL)
        EXECUTE FUNCTION astrfleet_free_message_key();

    EXECUTE format('ALTER TABLE messages ATTACH PARTITION messages_begin FOR VALUES FROM (MINVALUE) TO (%L)', upper_edge);
    ALTER TABLE messages_begin DROP CONSTRAINT messages_edge;
    CREATE TABLE messages_rest (LIKE messages_begin INCLUDING ALL);
    ALTER TABLE messages ATTACH PARTITION messages_rest DEFAULT;
END $$;

ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON messages USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);
-- Who goes to a partition itself meets the same wall.
ALTER TABLE messages_rest ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages_rest FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON messages_rest USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);

-- Makes the partition of a month, where there is none. What came meanwhile to `messages_rest` moves into it.
CREATE FUNCTION astrfleet_make_message_month(month DATE) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    first DATE := date_trunc('month', month)::date;
    own TEXT := 'messages_' || to_char(first, 'YYYY_MM');
    lower_edge TEXT := astrfleet_message_edge(first);
    upper_edge TEXT := astrfleet_message_edge((first + interval '1 month')::date);
BEGIN
    -- One at a time.
    PERFORM pg_advisory_xact_lock(1634956402, 1835233395);
    IF EXISTS (
        SELECT 1 FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'messages'::regclass
        AND substring(pg_get_expr(relpartbound, pg_class.oid) FROM 'TO \(''(msg_[0-9a-f]+)''\)') COLLATE "C" >= upper_edge COLLATE "C"
    ) THEN
        RETURN FALSE;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE messages_rest INCLUDING ALL)', own);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', own);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', own);
    EXECUTE format(
        'CREATE POLICY scope ON %I USING (
            tenant_id = ANY ((SELECT string_to_array(current_setting(''astrfleet.scope'', true), '',''))::text[])
            OR (SELECT current_setting(''astrfleet.scope'', true)) = ''*''
        )', own);
    EXECUTE format(
        'WITH moved AS (DELETE FROM messages_rest WHERE id >= %L AND id < %L RETURNING *)
        INSERT INTO %I SELECT * FROM moved', lower_edge, upper_edge, own);
    EXECUTE format('ALTER TABLE messages ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', own, lower_edge, upper_edge);
    -- Those that moved had given their keys and numbers back.
    EXECUTE format(
        'INSERT INTO message_keys (tenant_id, session_id, key, message_id)
        SELECT tenant_id, session_id, idempotency_key, id FROM %I WHERE idempotency_key IS NOT NULL
        UNION ALL SELECT tenant_id, '''', platform_id, id FROM %I WHERE platform_id IS NOT NULL
        ON CONFLICT DO NOTHING', own, own);
    RETURN TRUE;
END $$;

-- Frees keys of messages of the months that end at `edge` or before it, `most` at once, and says how many there were.
CREATE FUNCTION astrfleet_free_message_keys(edge TEXT, most BIGINT) RETURNS BIGINT
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    upper_edge TEXT;
    freed BIGINT;
BEGIN
    SELECT max(month.upper_edge COLLATE "C") INTO upper_edge FROM (
        SELECT substring(pg_get_expr(relpartbound, pg_class.oid) FROM 'TO \(''(msg_[0-9a-f]+)''\)') AS upper_edge
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'messages'::regclass
    ) AS month WHERE month.upper_edge COLLATE "C" <= edge COLLATE "C";
    DELETE FROM message_keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM message_keys WHERE message_id COLLATE "C" < upper_edge COLLATE "C" LIMIT most
    ));
    GET DIAGNOSTICS freed = ROW_COUNT;
    RETURN freed;
END $$;

-- Drops the months that end at `edge` or before it, and says how many there were.
CREATE FUNCTION astrfleet_drop_message_months(edge TEXT) RETURNS BIGINT
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    edges JSONB;
    one RECORD;
    dropped BIGINT := 0;
BEGIN
    SELECT jsonb_object_agg(relname, upper_edge) INTO edges FROM (
        SELECT relname, substring(pg_get_expr(relpartbound, pg_class.oid) FROM 'TO \(''(msg_[0-9a-f]+)''\)') AS upper_edge
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'messages'::regclass
    ) AS months WHERE upper_edge COLLATE "C" <= edge COLLATE "C";
    -- Those that are left: from the first month that is dropped to the end, nobody reads or writes messages.
    DELETE FROM message_keys WHERE message_id COLLATE "C" < (SELECT max(value COLLATE "C") FROM jsonb_each_text(edges));
    FOR one IN SELECT key AS name FROM jsonb_each_text(edges) LOOP
        EXECUTE format('DROP TABLE %I', one.name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
REVOKE ALL ON FUNCTION astrfleet_make_message_month FROM PUBLIC;
REVOKE ALL ON FUNCTION astrfleet_drop_message_months FROM PUBLIC;
REVOKE ALL ON FUNCTION astrfleet_free_message_keys FROM PUBLIC;
