-- The engagement events. All columns except the key and the time may be NULL.
CREATE TABLE IF NOT EXISTS public.engagement_events (
    id          bigserial   PRIMARY KEY,
    content_id  uuid        REFERENCES public.content (id),
    user_id     uuid,
    event_type  text        CHECK (event_type IN ('play', 'pause', 'finish', 'click')),
    event_ts    timestamptz NOT NULL,
    duration_ms int,
    device      text,
    raw_payload jsonb
);
