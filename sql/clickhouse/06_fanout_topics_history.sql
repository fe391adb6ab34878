-- Adds columns to tables that were created by older releases.
ALTER TABLE {{database}}.fanout_topics
    ADD COLUMN IF NOT EXISTS starts Array(Int64),
    ADD COLUMN IF NOT EXISTS settled UInt8 DEFAULT 1,
    ADD COLUMN IF NOT EXISTS table_id UUID,
    ADD COLUMN IF NOT EXISTS truncated String
