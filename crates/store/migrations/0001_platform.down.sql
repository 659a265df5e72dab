-- Erases everything: what refers to others first.
DROP TABLE idempotency;
DROP TABLE audit_heads;
DROP TABLE audit_log;
DROP TABLE instances;
DROP TABLE api_keys;
DROP TABLE invitations;
DROP TABLE members;
DROP TABLE refresh_tokens;
DROP TABLE users;
DROP TABLE tenants;
