-- The role that everybody logs in as owns its database, may replicate, and is no superuser. It gets the password that the
-- image asks for; the superuser has none, so nobody can log in as it over TCP.
CREATE ROLE "{{postgres.user}}" LOGIN REPLICATION;
UPDATE pg_authid SET rolpassword = (SELECT rolpassword FROM pg_authid WHERE rolname = 'fanout_superuser') WHERE rolcanlogin;
ALTER ROLE fanout_superuser PASSWORD NULL;
ALTER DATABASE "{{postgres.database}}" OWNER TO "{{postgres.user}}";
