//! The schema of the file.

/// Each runs once, in order, in a transaction of its own. A released file never changes; a new one is added.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_state.sql"),
    include_str!("migrations/0002_restarts.sql"),
    include_str!("migrations/0003_user_ids.sql"),
    include_str!("migrations/0004_control.sql"),
];
