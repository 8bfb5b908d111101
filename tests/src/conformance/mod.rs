//! The agent's calls as recorded exchanges that run against any control server: `tests/control-conformance/` says what is
//! sent and what has to come back; this room fills in what only the run can know, signs, sends, compares and verifies.
//!
//! Knows a server by its base URL and by an operator's hook, a program that makes stacks and tokens and publishes. Must
//! never know which server that is.

mod exchange;
mod fill;
mod matching;
mod operator;
mod run;
mod trust;
mod vector;

pub use operator::Operator;
pub use run::{Outcome, Plan, run_all};
pub use vector::{Vector, dir, load};
