-- Revokes superuser rights from the role that fanout and its connector use, in a database that an earlier version created. Must
-- be run by another superuser, in one transaction. The setting fanout.role contains the name of the role.
DO $$
DECLARE
    role      CONSTANT text := current_setting('fanout.role');
    superuser CONSTANT text := 'fanout_superuser';
    bootstrap CONSTANT oid := 10;
    object    record;
BEGIN
    IF (SELECT oid FROM pg_roles WHERE rolname = role) <> bootstrap THEN
        EXECUTE format('ALTER ROLE %I NOSUPERUSER REPLICATION', role);
        RETURN;
    END IF;

    -- The role that initdb created owns the catalogs and cannot lose its rights. It keeps them under another name and without a
    -- password, and a new role gets its name and password. A SCRAM verifier does not depend on the name.
    EXECUTE format('ALTER ROLE %I RENAME TO %I', role, superuser);
    EXECUTE format('CREATE ROLE %I LOGIN REPLICATION', role);
    UPDATE pg_authid SET rolpassword = (SELECT rolpassword FROM pg_authid WHERE rolname = superuser) WHERE rolname = role;
    EXECUTE format('ALTER ROLE %I PASSWORD NULL', superuser);

    -- The new role becomes the owner of all objects that belong neither to the system nor to an extension.
    EXECUTE format('ALTER DATABASE %I OWNER TO %I', current_database(), role);
    FOR object IN
        WITH schemas AS (
            SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        ),
        members AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
        owned AS (SELECT classid, objid FROM pg_depend WHERE deptype IN ('a', 'i') AND classid = 'pg_class'::regclass)
        -- The schema public keeps the owner that this version of Postgres gives it.
        SELECT format('SCHEMA %I', nspname) AS label FROM schemas JOIN pg_namespace USING (oid, nspname)
        WHERE nspowner = bootstrap AND nspname <> 'public'
        UNION ALL
        SELECT CASE relkind WHEN 'v' THEN 'VIEW ' WHEN 'm' THEN 'MATERIALIZED VIEW ' WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END
            || oid::regclass
        FROM pg_class
        WHERE relowner = bootstrap AND relnamespace IN (SELECT oid FROM schemas)
            AND relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
            AND ('pg_class'::regclass, oid) NOT IN (SELECT classid, objid FROM members)
            AND NOT (relkind = 'S' AND oid IN (SELECT objid FROM owned))
        UNION ALL
        SELECT 'ROUTINE ' || oid::regprocedure FROM pg_proc
        WHERE proowner = bootstrap AND pronamespace IN (SELECT oid FROM schemas)
            AND ('pg_proc'::regclass, oid) NOT IN (SELECT classid, objid FROM members)
        UNION ALL
        SELECT 'TYPE ' || type.oid::regtype FROM pg_type AS type LEFT JOIN pg_class AS class ON class.oid = type.typrelid
        WHERE type.typowner = bootstrap AND type.typnamespace IN (SELECT oid FROM schemas)
            AND (type.typtype IN ('e', 'd', 'r') OR class.relkind = 'c')
            AND ('pg_type'::regclass, type.oid) NOT IN (SELECT classid, objid FROM members)
        UNION ALL
        -- Only a superuser can own a publication of all tables.
        SELECT format('PUBLICATION %I', pubname) FROM pg_publication WHERE pubowner = bootstrap AND NOT puballtables
    LOOP
        EXECUTE format('ALTER %s OWNER TO %I', object.label, role);
    END LOOP;

    -- Sessions that logged in before still have the rights of the old role.
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usesysid = bootstrap AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender');
END
$$;
