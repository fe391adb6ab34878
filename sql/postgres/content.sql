-- The catalogue: the content items that events refer to.
CREATE TABLE IF NOT EXISTS public.content (
    id             uuid        PRIMARY KEY,
    slug           text        NOT NULL UNIQUE,
    title          text        NOT NULL,
    content_type   text        CHECK (content_type IN ('podcast', 'newsletter', 'video')),
    length_seconds int,
    publish_ts     timestamptz NOT NULL
);
