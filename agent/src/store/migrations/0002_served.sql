-- When a release first became the one that serves; without it, it never passed its gate and is nothing to go back to.
ALTER TABLE releases ADD COLUMN served_at INTEGER;
UPDATE releases SET served_at = built_at WHERE state = 'built';
