-- Messages of IM channels. `umo` is the bot's name of a conversation in a channel; `sender` is JSON: who of those in it
-- wrote. `platform_id` names what a channel brought, or what a bot told of it, within the tenant; `delivery` is the one time
-- of telling that is to be answered, `delivery_start` the start of the bot that it belongs to.

ALTER TABLE sessions ADD COLUMN umo TEXT;
ALTER TABLE messages ADD COLUMN sender TEXT;
ALTER TABLE messages ADD COLUMN platform_id TEXT;
ALTER TABLE messages ADD COLUMN delivery TEXT;
ALTER TABLE messages ADD COLUMN delivery_start BIGINT;
