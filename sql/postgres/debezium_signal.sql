-- Signals from fanout to Debezium, which request an incremental snapshot. Debezium also writes its watermarks here.
CREATE TABLE IF NOT EXISTS public.debezium_signal (
    id   varchar(42) PRIMARY KEY,
    type varchar(32) NOT NULL,
    data text
);
