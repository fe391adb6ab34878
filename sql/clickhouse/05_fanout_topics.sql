-- Generations recorded by earlier releases. They are now in the state topic. A row of format 2 marks the move: earlier releases
-- do not know that format, and halt. No other rows are written to this table.
CREATE TABLE IF NOT EXISTS {{database}}.fanout_topics
(
    topic      String,
    topic_id   UUID COMMENT 'assigned by the broker',
    partitions Int32,
    generation UInt16 COMMENT 'from 1',
    first_seen DateTime64(3, 'UTC'),
    format     UInt16 COMMENT '1: written by an earlier release; 2: moved to the state topic',
    starts     Array(Int64) COMMENT 'start offset of each partition; empty: the start of the log',
    settled    UInt8 DEFAULT 1 COMMENT '0: the rebuild that started this generation is unfinished',
    table_id   UUID COMMENT 'id of the storage table, assigned by the server',
    truncated  String COMMENT 'position at which the source was truncated, partition@offset; empty: it was not truncated'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, generation, topic_id, partitions)
