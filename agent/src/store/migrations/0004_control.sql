-- Versions are counted by whoever publishes them: a file on this host, or a control server. Each join and each leave
-- begins an era, kept in `meta` under `era`, in which numbers begin anew.
CREATE TABLE versions_by_era (
    era         INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    stack       TEXT NOT NULL,
    -- Of the document that was published: the state object's, where a control server signed it.
    sha256      TEXT NOT NULL,
    document    TEXT NOT NULL,
    env_sha256  TEXT NOT NULL REFERENCES env_objects (sha256),
    refs        TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('file', 'control')),
    received_at INTEGER NOT NULL,
    applied_at  INTEGER,
    verdict     TEXT,
    PRIMARY KEY (era, number)
) STRICT;
INSERT INTO versions_by_era
    SELECT 0, number, stack, sha256, document, env_sha256, refs, source, received_at, applied_at, verdict FROM versions;
DROP TABLE versions;
ALTER TABLE versions_by_era RENAME TO versions;
CREATE INDEX versions_by_env ON versions (env_sha256);

-- One row while the host is joined.
CREATE TABLE control (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    -- Which joining it is: another identity begins anew.
    joining        TEXT NOT NULL,
    -- What is believed (JSON), replaced in the transaction that stores the version it is about.
    trust          TEXT NOT NULL,
    boot           INTEGER NOT NULL,
    -- The version that is not taken (JSON), so that a restart does not tell of it again.
    refusal        TEXT,
    lost           INTEGER NOT NULL DEFAULT 0,
    outbox_records INTEGER NOT NULL DEFAULT 0,
    outbox_bytes   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Events on their way to the control server, in the order in which they are sent; written with the event itself.
CREATE TABLE outbox (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    -- 0 info, 1 warn, 2 error, 3 what stands for events that were lost.
    severity INTEGER NOT NULL,
    record   TEXT NOT NULL,
    bytes    INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_by_severity ON outbox (severity, id);
-- Sums that would take a look at every row.
CREATE TRIGGER outbox_in AFTER INSERT ON outbox BEGIN
    UPDATE control SET outbox_records = outbox_records + 1, outbox_bytes = outbox_bytes + new.bytes;
END;
CREATE TRIGGER outbox_out AFTER DELETE ON outbox BEGIN
    UPDATE control SET outbox_records = outbox_records - 1, outbox_bytes = outbox_bytes - old.bytes;
END;
