-- Where fanout asks Debezium for an incremental snapshot; Debezium writes its watermarks here too.
CREATE TABLE IF NOT EXISTS public.debezium_signal (
    id   varchar(42) PRIMARY KEY,
    type varchar(32) NOT NULL,
    data text
);
