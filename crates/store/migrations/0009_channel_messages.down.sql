ALTER TABLE messages DROP COLUMN delivery_start;
ALTER TABLE messages DROP COLUMN delivery;
ALTER TABLE messages DROP COLUMN platform_id;
ALTER TABLE messages DROP COLUMN sender;
ALTER TABLE sessions DROP COLUMN umo;
