-- The generations as earlier releases recorded them here. They are in the state topic now, and a row of format 2 says so: an
-- earlier release does not know that format, and halts. Nothing else is written into it.
CREATE TABLE IF NOT EXISTS {{database}}.fanout_topics
(
    topic      String,
    topic_id   UUID COMMENT 'as the broker gave it',
    partitions Int32,
    generation UInt16 COMMENT 'from 1',
    first_seen DateTime64(3, 'UTC'),
    format     UInt16 COMMENT '1: written by an earlier release; 2: moved to the state topic',
    starts     Array(Int64) COMMENT 'by partition, the offset that this life begins at; empty: at the start of the log',
    settled    UInt8 DEFAULT 1 COMMENT '0: a rebuild has begun this life and is not done',
    table_id   UUID COMMENT 'the storage table that it is written into, as the server knows it',
    truncated  String COMMENT 'where in this life the source was truncated, partition@offset; empty: it was not'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, generation, topic_id, partitions)
