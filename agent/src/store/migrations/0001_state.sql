-- Times are Unix time in ms. Digests are lower-case hexadecimal SHA-256.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Env values live here and nowhere else, addressed by the digest of their exact bytes.
CREATE TABLE env_objects (
    sha256 TEXT PRIMARY KEY,
    json   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- `document` holds the exact bytes that were hashed; a signed version keeps them byte for byte.
CREATE TABLE versions (
    number      INTEGER PRIMARY KEY,
    stack       TEXT NOT NULL,
    sha256      TEXT NOT NULL,
    document    TEXT NOT NULL,
    env_sha256  TEXT NOT NULL REFERENCES env_objects (sha256),
    -- What each service's commit was resolved from, by service name: outside the document, which knows commits alone.
    refs        TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('file', 'control')),
    received_at INTEGER NOT NULL,
    applied_at  INTEGER,
    verdict     TEXT
) STRICT;
CREATE INDEX versions_by_env ON versions (env_sha256);

-- A removed service keeps its row until it is pruned: its folder of data is still there.
CREATE TABLE services (
    name             TEXT PRIMARY KEY,
    first_seen       INTEGER NOT NULL,
    removed_at       INTEGER,
    stopped          INTEGER NOT NULL DEFAULT 0 CHECK (stopped IN (0, 1)),
    -- The release that serves, set at the commit point of a deploy.
    active_release   INTEGER,
    pinned_release   INTEGER,
    pinned_entry_sha TEXT,
    CHECK ((pinned_release IS NULL) = (pinned_entry_sha IS NULL))
) STRICT, WITHOUT ROWID;

-- Apart from `services`, because a number is never used twice, even when a pruned service comes back.
CREATE TABLE release_numbers (
    service TEXT PRIMARY KEY,
    last    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE releases (
    service        TEXT NOT NULL REFERENCES services (name) ON DELETE CASCADE,
    number         INTEGER NOT NULL,
    commit_id      TEXT NOT NULL,
    tree           TEXT NOT NULL,
    dir_name       TEXT NOT NULL,
    build_digest   TEXT NOT NULL,
    program_digest TEXT NOT NULL,
    entry          TEXT NOT NULL,
    -- All of the user's variables: the entry's, and those of its env_file as it was then.
    env_sha256   TEXT NOT NULL REFERENCES env_objects (sha256),
    state          TEXT NOT NULL CHECK (state IN ('building', 'built', 'failed', 'gone')),
    failure        TEXT,
    created_at     INTEGER NOT NULL,
    built_at       INTEGER,
    PRIMARY KEY (service, number),
    CHECK ((state = 'failed') = (failure IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX releases_by_build ON releases (service, build_digest);
CREATE INDEX releases_by_env ON releases (env_sha256);

CREATE TABLE deploys (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    service      TEXT NOT NULL,
    from_release INTEGER,
    to_release   INTEGER NOT NULL,
    phase        TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    outcome      TEXT CHECK (outcome IN ('done', 'failed', 'rolled-back', 'superseded')),
    failure      TEXT,
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
) STRICT;
CREATE INDEX deploys_by_service ON deploys (service, id);

-- AUTOINCREMENT: an id is never used twice, so a reader may resume after the last id it saw.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    service TEXT,
    release INTEGER,
    kind    TEXT NOT NULL,
    cause   TEXT NOT NULL
) STRICT;
