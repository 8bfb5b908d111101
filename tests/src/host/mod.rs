//! A real systemd host in namespaces, at native speed: for what only shows where units, packages, users and a network
//! outside exist. Needs root.
//!
//! The root tree is made once per machine (`base.sh`); a host is an overlay on it in the test's own folder, so it can be
//! stopped and booted again. A veth pair leads from its `uplink` to a network namespace that is the outside. Nothing of
//! the machine is changed: the kernel's settings are read-only in there. Drop ends everything by pid.

mod boot;
mod cgroup;
mod command;
mod load;
mod package;
mod record;

pub use boot::{Host, Uplink};
pub use command::LIMIT;
pub use load::{Load, Outcome};
pub use package::Package;
pub use record::difference;

/// The host's addresses and those of the machine outside, its gateway.
pub const HOST_V4: &str = "198.51.100.2";
pub const HOST_V6: &str = "2001:db8:1::2";
pub const OUTSIDE_V4: &str = "198.51.100.1";
pub const OUTSIDE_V6: &str = "2001:db8:1::1";
