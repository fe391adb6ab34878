-- What a life is told by besides its topic, for tables from before these columns.
ALTER TABLE {{database}}.fanout_topics
    ADD COLUMN IF NOT EXISTS starts Array(Int64),
    ADD COLUMN IF NOT EXISTS settled UInt8 DEFAULT 1,
    ADD COLUMN IF NOT EXISTS table_id UUID,
    ADD COLUMN IF NOT EXISTS truncated String
