-- Times are Unix time in ms. Digests are lower-case hexadecimal SHA-256. What is called sealed is encrypted under the
-- key file, which is not in here.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stacks (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    environment  TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    root_number  INTEGER NOT NULL,
    last_version INTEGER NOT NULL DEFAULT 0,
    poll_s       INTEGER NOT NULL,
    held         INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
    -- Exact bytes of head.json: the whole of what a version changes for hosts is this one row.
    head         TEXT,
    fresh_issued INTEGER,
    fresh_until  INTEGER,
    created_at   INTEGER NOT NULL,
    -- Grows with every change of the head, whatever the clock does.
    head_revision INTEGER NOT NULL DEFAULT 0,
    CHECK ((head IS NULL) = (last_version = 0))
) STRICT, WITHOUT ROWID;

CREATE TABLE stack_keys (
    stack  TEXT NOT NULL REFERENCES stacks (id),
    role   TEXT NOT NULL CHECK (role IN ('root', 'version', 'fresh')),
    public TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (stack, role)
) STRICT, WITHOUT ROWID;

CREATE TABLE roots (
    stack          TEXT NOT NULL REFERENCES stacks (id),
    number         INTEGER NOT NULL,
    payload_sha256 TEXT NOT NULL,
    envelope       TEXT NOT NULL,
    PRIMARY KEY (stack, number)
) STRICT, WITHOUT ROWID;

-- Addressed by the digest of the exact bytes that hosts fetch; env objects are kept sealed.
CREATE TABLE objects (
    stack      TEXT NOT NULL REFERENCES stacks (id),
    sha256     TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('state', 'env')),
    body       BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (stack, sha256)
) STRICT;

CREATE TABLE versions (
    stack          TEXT NOT NULL REFERENCES stacks (id),
    number         INTEGER NOT NULL,
    epoch          INTEGER NOT NULL,
    kind           TEXT NOT NULL CHECK (kind IN ('deploy', 'rollback')),
    rollback_of    INTEGER,
    state_sha256   TEXT NOT NULL,
    env_sha256     TEXT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    envelope       TEXT NOT NULL,
    -- What each service's commit was resolved from: JSON of `model::VersionService`.
    services       TEXT NOT NULL,
    summary        TEXT NOT NULL,
    actor          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (stack, number),
    FOREIGN KEY (stack, state_sha256) REFERENCES objects (stack, sha256),
    FOREIGN KEY (stack, env_sha256) REFERENCES objects (stack, sha256),
    CHECK ((kind = 'rollback') = (rollback_of IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Values of env variables stand as a marker in `text`, and sealed in `draft_env`.
CREATE TABLE drafts (
    stack    TEXT PRIMARY KEY REFERENCES stacks (id),
    revision INTEGER NOT NULL,
    format   TEXT NOT NULL CHECK (format IN ('toml', 'json')),
    text     TEXT NOT NULL,
    actor    TEXT NOT NULL,
    saved_at INTEGER NOT NULL,
    -- Revision that the newest version was made of; 0: of another document.
    published INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE draft_env (
    stack   TEXT NOT NULL REFERENCES stacks (id),
    service TEXT NOT NULL,
    name    TEXT NOT NULL,
    sealed  BLOB NOT NULL,
    PRIMARY KEY (stack, service, name)
) STRICT, WITHOUT ROWID;

-- The secret half of a token is never here.
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    stack      TEXT NOT NULL REFERENCES stacks (id),
    public     TEXT NOT NULL,
    note       TEXT NOT NULL,
    labels     TEXT NOT NULL,
    approval   TEXT NOT NULL CHECK (approval IN ('none', 'person')),
    used_by    TEXT,
    used_at    INTEGER,
    actor      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CHECK ((used_by IS NULL) = (used_at IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_stack ON tokens (stack, created_at);

CREATE TABLE hosts (
    id            TEXT PRIMARY KEY,
    stack         TEXT NOT NULL REFERENCES stacks (id),
    name          TEXT NOT NULL,
    standing      TEXT NOT NULL CHECK (standing IN ('pending', 'active', 'revoked')),
    code          TEXT,
    labels        TEXT NOT NULL,
    key           TEXT NOT NULL UNIQUE,
    machine       TEXT NOT NULL,
    os            TEXT NOT NULL,
    arch          TEXT NOT NULL,
    token         TEXT,
    enrolled_at   INTEGER NOT NULL,
    approved_by   TEXT,
    revoked_at    INTEGER,
    revoke_reason TEXT,
    conflict_at   INTEGER,
    CHECK ((standing = 'revoked') = (revoked_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX hosts_by_stack ON hosts (stack);

CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    alarm  INTEGER NOT NULL CHECK (alarm IN (0, 1))
) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;

-- Answers may hold a join string: sealed.
CREATE TABLE idempotency (
    key            TEXT PRIMARY KEY,
    request_sha256 TEXT NOT NULL,
    sealed         BLOB NOT NULL,
    at             INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (at);
