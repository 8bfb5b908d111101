//! Source code on this host: bare mirrors of git repositories, checkouts of exact commits, releases and data folders.
//!
//! Owns everything under `git/` and `services/`. Builds are not run here: whoever builds takes a [`Checkout`], runs the
//! build in it and calls [`Source::seal`]. It never knows what a service is started with, and never writes a secret:
//! tokens and keys stay in their files and are named to git by path. Called by reconcile alone. How a
//! repository's server is talked to is agentd_git's.
//!
//! After a restart: a mirror is complete for every commit that has a ref below `refs/agentd/commits/`; a release is
//! complete when its marker exists below `sealed/`; all else is swept. A git process that a killed manager left behind
//! holds its mirror's lock until it ends, so two never write into one mirror.
//!
//! ```text
//! git/<hash>.damaged                   a mirror set aside, at most one each, to be looked at
//! git/home/                            HOME of git: askpass script (agentd_git's, as the configs)
//! git/<hash>.{git,lock,config}         mirror, its flock, the config naming its file:// origin as safe
//! services/<name>/releases/<n>-<sha7>  one tree each; the service's to read, at best
//! services/<name>/sealed/<n>-<sha7>    marker: that release is complete and on disk
//! services/<name>/current              link to the active release, for people
//! services/<name>/data                 outlives releases
//! ```

mod checkout;
mod error;
mod fetch;
mod git;
mod history;
mod inspect;
mod mirror;
mod ownership;
mod releases;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use agentd_git::{Credential, new_key, pin_host};
pub use checkout::Checkout;
pub use error::Error;
pub use mirror::{Config, Source};
pub use ownership::{Ids, Owner};
pub use releases::release_dir_name;
