-- Debezium updates the only row at every heartbeat, so that the slot advances even if the captured tables do not change.
CREATE TABLE IF NOT EXISTS public.debezium_heartbeat (
    id      int         PRIMARY KEY CHECK (id = 1),
    beat_ts timestamptz NOT NULL
);
