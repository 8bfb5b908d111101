-- What hosts said: can be lost without harm to any host. Times are Unix time in ms.

-- One row a host, overwritten.
CREATE TABLE live (
    host      TEXT PRIMARY KEY,
    last_seen INTEGER NOT NULL,
    boot      INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    rid       TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    seen      INTEGER NOT NULL,
    applied   INTEGER NOT NULL,
    digest    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    host        TEXT PRIMARY KEY,
    digest      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    body        TEXT NOT NULL
) STRICT;

-- AUTOINCREMENT: an id is never used twice, so a reader may resume after the last id it saw.
CREATE TABLE events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    stack    TEXT NOT NULL,
    host     TEXT NOT NULL,
    eid      TEXT NOT NULL,
    received INTEGER NOT NULL,
    severity INTEGER NOT NULL CHECK (severity IN (0, 1, 2)),
    kind     TEXT NOT NULL,
    service  TEXT,
    body     TEXT NOT NULL,
    UNIQUE (host, eid)
) STRICT;
CREATE INDEX events_by_stack ON events (stack, id);
CREATE INDEX events_loud ON events (stack, id) WHERE severity > 0;
CREATE INDEX events_by_age ON events (received);

CREATE TABLE cursors (
    host   TEXT NOT NULL,
    stream TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (host, stream)
) STRICT, WITHOUT ROWID;
