//! A SQLite file as the daemons here keep one. Owns: opening (is it ours, is it whole, do we know its schema; then
//! migrate), the way between columns and types, and what can go wrong with either. Must never know: any table. Threads and
//! transactions are those of the rooms that own a file.

mod columns;
mod error;
mod file;

pub use columns::{
    json, parsed, parsed_or_null, row, rows, signed, some_row, text, to_json, unsigned, unsigned_or_null,
};
pub use error::{Error, Fault, StoredValue};
pub use file::{broken, check, open, open_to_read};
