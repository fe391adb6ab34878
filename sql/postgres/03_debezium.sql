-- Where fanout asks Debezium for an incremental snapshot; Debezium writes its watermarks here too.
CREATE TABLE IF NOT EXISTS public.debezium_signal (
    id   varchar(42) PRIMARY KEY,
    type varchar(32) NOT NULL,
    data text
);

-- Debezium touches its one row at every heartbeat, so that the slot moves on while the tables it watches are at rest.
CREATE TABLE IF NOT EXISTS public.debezium_heartbeat (
    id      int         PRIMARY KEY CHECK (id = 1),
    beat_ts timestamptz NOT NULL
);

-- With the full replica identity a change carries the whole row as it was, values kept out of line (TOAST) included.
-- Only where it is missing: the ALTER waits for every transaction on the table, and holds up those that come after it.
DO $$
DECLARE
    relation regclass;
BEGIN
    FOR relation IN
        SELECT oid FROM pg_class
        WHERE oid IN ('public.content'::regclass, 'public.engagement_events'::regclass) AND relreplident <> 'f'
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', relation);
    END LOOP;
END
$$;
