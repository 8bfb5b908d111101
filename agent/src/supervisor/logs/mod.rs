//! What instances wrote. Owns: reading the segments a shim writes, and how long folders of gone instances stay. Writes
//! no log itself; everything it knows is on disk.

mod reader;
mod retention;

pub(super) use reader::tail;
pub(super) use retention::sweep;
