-- Restarts nobody asked for, of instances that are gone; those that run are counted by their shims. One row for each
-- instance that was ever restarted and then replaced, as long as its release is remembered.
CREATE TABLE past_restarts (
    instance TEXT PRIMARY KEY,
    service  TEXT NOT NULL,
    release  INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    FOREIGN KEY (service, release) REFERENCES releases (service, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX past_restarts_by_release ON past_restarts (service, release);
