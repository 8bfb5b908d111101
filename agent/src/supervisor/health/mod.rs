//! Is an instance ready? Owns: the schedule of probes, the probes themselves, and leave for liveness restarts. Nothing
//! survives a restart but what the shim remembers: whether this incarnation once passed.

mod allowance;
mod pressure;
mod probe;
mod schedule;

pub(super) use allowance::Allowances;
pub(super) use pressure::host_is_starved;
pub(super) use probe::{Prober, Target, passed};
pub(super) use schedule::{Effect, Health, Verdict};
