//! What manager, keeper and shim say to each other, and what a shim leaves on disk. No serde, no allocation tricks.
//!
//! An instance directory `<run>/instances/<instance id>/` holds:
//!
//! | file | written by | content |
//! |---|---|---|
//! | `spec` | manager, before SPAWN, 0600, temp + rename | [`spec::Spec`] |
//! | `state` | shim, temp + rename | [`state::State`]: what an adopting shim needs |
//! | `events` | shim, append | [`event::Event`] records of 64 bytes |
//! | `lock` | shim, `flock` held for life | the shim's pid in decimal |
//! | `ctl.sock` | shim | SEQPACKET socket, [`wire`] messages |
//! | `out.fifo`, `err.fifo` | manager makes, keeper and shim hold open O_RDWR | the program's stdout and stderr |
//!
//! `<run>/keeper/` holds `ctl.sock`, `lock` and `exits` ([`event::ReapRecord`] records of 48 bytes).
//!
//! Descriptors handed to a shim at exec stand from 3 on in the order of the names in the environment variable
//! [`HELD_FDS_ENV`], separated by `:`. A name `listen.<x>` goes on to the program as LISTEN_FDS/LISTEN_FDNAMES
//! (sd_listen_fds(3)); a name `reserve.<x>` stays with the shim and only keeps the port from being taken.

pub mod event;
pub mod hosts;
pub mod log;
pub mod spec;
pub mod state;
pub mod tlv;
pub mod wire;

/// Names of the descriptors from 3 on, `:`-separated, in a shim's environment.
pub const HELD_FDS_ENV: &str = "AGENTD_HELD_FDS";
/// Most descriptors one instance may hold, as many as one SCM_RIGHTS message of ours carries.
pub const HELD_FDS_MAX: usize = 32;
/// Prefix of descriptors that the program itself receives.
pub const LISTEN_PREFIX: &str = "listen.";
/// Prefix of descriptors that only the shim and the keeper hold.
pub const RESERVE_PREFIX: &str = "reserve.";
/// Set to `1` in the keeper's environment to make shim and keeper behave as on a kernel below 6.9: no pidfd inode
/// identity and no exit status by pidfd. Inherited by the shims.
pub const NO_PIDFD_INFO_ENV: &str = "AGENTD_NO_PIDFD_INFO";
/// In the environment of every process of an instance, so that a tree can be found again whoever its parent is now.
pub const INSTANCE_ENV: &str = "AGENTD_INSTANCE";

pub const SPEC_FILE: &str = "spec";
pub const STATE_FILE: &str = "state";
pub const EVENTS_FILE: &str = "events";
pub const LOCK_FILE: &str = "lock";
pub const CONTROL_SOCKET: &str = "ctl.sock";
pub const STDOUT_FIFO: &str = "out.fifo";
pub const STDERR_FIFO: &str = "err.fifo";
pub const KEEPER_DIR: &str = "keeper";
pub const INSTANCES_DIR: &str = "instances";
pub const EXITS_FILE: &str = "exits";
