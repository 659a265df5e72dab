-- The first of three steps to messages by month: an `Idempotency-Key`, and the IM platform's own number of a message, are
-- taken in a table beside the messages, since PostgreSQL knows no unique index over all months. And no message of later
-- months gets into the table as it is, so that it can become the first part of the new one without being read: it has to
-- become that by then. Where there are tenants, somebody has to say that it may (`migrate up --contract`), so it has
-- half a year.

-- A key counts within its session; an IM platform's number within the tenant: there `session_id` is empty.
CREATE TABLE message_keys (
    tenant_id  TEXT NOT NULL,
    session_id TEXT NOT NULL,
    key        TEXT NOT NULL,
    message_id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, session_id, key)
);
ALTER TABLE message_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE message_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON message_keys USING (
    tenant_id = ANY ((SELECT string_to_array(current_setting('astrfleet.scope', true), ','))::text[])
    OR (SELECT current_setting('astrfleet.scope', true)) = '*'
);

-- A message is not inserted whose key or number is taken.
CREATE FUNCTION astrfleet_take_message_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.idempotency_key IS NOT NULL THEN
        INSERT INTO message_keys (tenant_id, session_id, key, message_id)
            VALUES (NEW.tenant_id, NEW.session_id, NEW.idempotency_key, NEW.id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    IF NEW.platform_id IS NOT NULL THEN
        INSERT INTO message_keys (tenant_id, session_id, key, message_id)
            VALUES (NEW.tenant_id, '', NEW.platform_id, NEW.id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            -- It takes nothing.
            DELETE FROM message_keys WHERE tenant_id = NEW.tenant_id AND session_id = NEW.session_id
                AND key = NEW.idempotency_key AND message_id = NEW.id;
            RETURN NULL;
        END IF;
    END IF;
    RETURN NEW;
END $$;

-- A message takes its key and its number with it.
CREATE FUNCTION astrfleet_free_message_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM message_keys WHERE tenant_id = OLD.tenant_id AND session_id = OLD.session_id
        AND key = OLD.idempotency_key AND message_id = OLD.id;
    DELETE FROM message_keys WHERE tenant_id = OLD.tenant_id AND session_id = ''
        AND key = OLD.platform_id AND message_id = OLD.id;
    RETURN NULL;
END $$;

-- For those of the oldest months, which go together. Rows come in the order of their ids, nearly: a block range is enough,
-- and costs whoever writes next to nothing.
CREATE INDEX message_keys_message_id ON message_keys USING brin (message_id COLLATE "C");

CREATE TRIGGER take_key BEFORE INSERT ON messages FOR EACH ROW
    WHEN (NEW.idempotency_key IS NOT NULL OR NEW.platform_id IS NOT NULL)
    EXECUTE FUNCTION astrfleet_take_message_key();
CREATE TRIGGER free_key AFTER DELETE ON messages FOR EACH ROW
    WHEN (OLD.idempotency_key IS NOT NULL OR OLD.platform_id IS NOT NULL)
    EXECUTE FUNCTION astrfleet_free_message_key();

-- Where a month begins among the ids: the milliseconds with which they begin, in hexadecimal.
CREATE FUNCTION astrfleet_message_edge(month DATE) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT 'msg_' || lpad(to_hex((extract(epoch FROM month) * 1000)::bigint), 12, '0')
$$;

DO $$
BEGIN
    EXECUTE format(
        'ALTER TABLE messages ADD CONSTRAINT messages_edge CHECK (id IS NOT NULL AND id < %L) NOT VALID',
        astrfleet_message_edge((date_trunc('month', now() AT TIME ZONE 'UTC')
            + CASE WHEN EXISTS (SELECT 1 FROM tenants) THEN interval '6 months' ELSE interval '2 months' END)::date)
    );
END $$;
