DROP TABLE usage_records;
DROP TABLE attachments;
DROP TABLE messages;
DROP TABLE sessions;
