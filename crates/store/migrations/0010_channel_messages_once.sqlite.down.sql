DROP INDEX messages_platform_id;
DROP INDEX sessions_umo;
