-- What each host's events take here, so that one host fills its own share and no other's.
CREATE TABLE volumes (
    host  TEXT PRIMARY KEY,
    rows  INTEGER NOT NULL,
    -- Of `events.body`.
    bytes INTEGER NOT NULL,
    -- Events that were removed before their time, for want of room; the record that tells of them is one of `rows`.
    lost  INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO volumes (host, rows, bytes)
    SELECT host, count(*), sum(length(CAST(body AS BLOB))) FROM events GROUP BY host;
CREATE INDEX events_by_host ON events (host, id);
