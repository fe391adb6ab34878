-- The view for readers: the current version of each event, without deleted events.
CREATE OR REPLACE VIEW {{database}}.engagement_enriched AS
SELECT
    event_id,
    content_id,
    user_id,
    CAST(event_type, 'LowCardinality(Nullable(String))') AS event_type,
    event_ts,
    duration_ms,
    engagement_seconds,
    engagement_pct,
    device,
    raw_payload,
    CAST(content_type, 'LowCardinality(Nullable(String))') AS content_type,
    length_seconds,
    processed_at
FROM {{database}}.engagement_enriched_storage FINAL
WHERE _deleted = 0
