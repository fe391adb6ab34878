-- The lives of each topic: a recreated topic, or one with more partitions, begins a generation. Rows are only added; two
-- rows of one topic and generation that differ in topic_id or partitions are a conflict, and both stay to be seen.
CREATE TABLE IF NOT EXISTS {{database}}.fanout_topics
(
    topic      String,
    topic_id   UUID COMMENT 'as the broker gave it',
    partitions Int32,
    generation UInt16 COMMENT 'from 1',
    first_seen DateTime64(3, 'UTC'),
    format     UInt16 COMMENT 'of this table and of _version; 1'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, generation, topic_id, partitions)
