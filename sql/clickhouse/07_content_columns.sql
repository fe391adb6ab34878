-- Columns that nobody reads, in tables from before they were dropped: a value of theirs that has no place here is no reason to
-- reject a content.
ALTER TABLE {{database}}.content
    DROP COLUMN IF EXISTS slug,
    DROP COLUMN IF EXISTS publish_ts
