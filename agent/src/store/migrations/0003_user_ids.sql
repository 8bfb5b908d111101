-- The id, uid and gid alike, that a service's builds and instances run with. A row outlives its service: what carries the
-- id on disk must never become somebody else's. `holder` is a service's name, or `@edge`, which no service can be called.
CREATE TABLE user_ids (
    id       INTEGER PRIMARY KEY,
    holder   TEXT NOT NULL UNIQUE,
    given_at INTEGER NOT NULL,
    -- Pruned: nothing that we know of carries the id any more. Given to another only once every id was given.
    freed_at INTEGER
) STRICT;
