//! The fixture of the cross-process suites: real binaries, real repositories, real programs, one folder per test.
//!
//! Programs are found beside the test's own executable. Everything listens on loopback; every wait has a cap and says
//! what it saw last. Dropping a [`World`] takes everything down and ends what is left by pid.

pub mod conformance;
mod controld;
pub mod dns;
pub mod fake_control;
pub mod host;
pub mod net;
mod repo;
mod terminal;
pub mod ufw;
mod world;

pub use controld::Controld;
pub use repo::Repo;
pub use terminal::Terminal;
pub use world::{Answer, Ran, World, free_port, program, web};
