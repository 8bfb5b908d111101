//! One page a file: a plain value made from the model by a pure function, and the template that writes it.
//!
//! Every text in such a value was cut and rid of what misleads ([`super::text`]); escaping is the template's. Nothing here
//! asks anybody: handlers fetch, pages show.

pub(crate) mod account;
pub(crate) mod audit;
mod deploy;
pub(crate) mod draft;
pub(crate) mod entry;
pub(crate) mod events;
pub(crate) mod failure;
mod grid;
pub(crate) mod host;
pub(crate) mod hosts;
pub(crate) mod join;
pub(crate) mod parts;
pub(crate) mod service;
pub(crate) mod stack;
pub(crate) mod stacks;
pub(crate) mod versions;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
