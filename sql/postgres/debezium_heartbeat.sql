-- Debezium touches its one row at every heartbeat, so that the slot moves on while the tables it watches are at rest.
CREATE TABLE IF NOT EXISTS public.debezium_heartbeat (
    id      int         PRIMARY KEY CHECK (id = 1),
    beat_ts timestamptz NOT NULL
);
