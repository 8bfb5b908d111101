//! What instances wrote. Owns: reading the segments a shim writes, and how long folders of gone instances stay. Writes
//! no log itself; everything it knows is on disk.

mod cursor;
mod folders;
mod lines;
mod merged;
mod retention;

pub use folders::LogFolder;
pub(super) use folders::{LABEL_FILE, folders};
pub use lines::{Line, Origin};
pub(super) use merged::tail;
pub use merged::{LogFile, Merged, Start};
pub(super) use retention::sweep;
