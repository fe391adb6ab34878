-- A copy of the catalogue. Queries must use FINAL and `_deleted = 0`.
CREATE TABLE IF NOT EXISTS {{database}}.content
(
    id             UUID,
    title          String,
    content_type   LowCardinality(Nullable(String)),
    length_seconds Nullable(Int32),
    processed_at   DateTime64(3, 'UTC'),

    _version       UInt64 COMMENT 'content generation << 48 | content offset',
    _deleted       UInt8
)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY id
