-- fanout owns the publication, the connector only reads it (publication.autocreate.mode=disabled): truncates are
-- published, and debezium_signal is in from the start, without which an incremental snapshot never ends.
DO $$
DECLARE
    publication CONSTANT text := '{{publication}}';
    missing text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = publication) THEN
        EXECUTE format('CREATE PUBLICATION %I', publication);
    END IF;

    IF NOT (SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication WHERE pubname = publication) THEN
        EXECUTE format('ALTER PUBLICATION %I SET (publish = %L)', publication, 'insert, update, delete, truncate');
    END IF;

    -- one that publishes all tables has these already
    FOR missing IN
        SELECT name FROM unnest(ARRAY['content', 'engagement_events', 'debezium_signal', 'debezium_heartbeat']) AS name
        WHERE NOT EXISTS (
            SELECT FROM pg_publication_tables
            WHERE pubname = publication AND schemaname = 'public' AND tablename = name
        )
    LOOP
        EXECUTE format('ALTER PUBLICATION %I ADD TABLE public.%I', publication, missing);
    END LOOP;
END
$$;
