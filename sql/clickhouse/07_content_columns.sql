-- Drops unused columns from tables that were created by older releases, so that their values cannot cause a content to be
-- rejected.
ALTER TABLE {{database}}.content
    DROP COLUMN IF EXISTS slug,
    DROP COLUMN IF EXISTS publish_ts
