-- The lives of each topic: a recreated topic, one with more partitions, or a rebuild from the source begins a generation. Rows
-- are only added, but for `settled` and `truncated`; two rows of one topic and generation that differ in topic_id or partitions are a
-- conflict, and both stay to be seen.
CREATE TABLE IF NOT EXISTS {{database}}.fanout_topics
(
    topic      String,
    topic_id   UUID COMMENT 'as the broker gave it',
    partitions Int32,
    generation UInt16 COMMENT 'from 1',
    first_seen DateTime64(3, 'UTC'),
    format     UInt16 COMMENT 'of this table and of _version; 1',
    starts     Array(Int64) COMMENT 'by partition, the offset that this life begins at; empty: at the start of the log',
    settled    UInt8 DEFAULT 1 COMMENT '0: a rebuild has begun this life and is not done',
    table_id   UUID COMMENT 'the storage table that it is written into, as the server knows it',
    truncated  String COMMENT 'where in this life the source was truncated, partition@offset; empty: it was not'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, generation, topic_id, partitions)
