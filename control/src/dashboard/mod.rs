//! The pages: what a person sees of stacks, hosts and services, and the forms by which he acts.
//!
//! Owns: addresses, templates, stylesheet and scripts. Every page works without JavaScript: each act is a form, each
//! answer to one a redirect. With it a page is fetched again when the server says that something has changed.
//! Must never know: databases, keys, the value of a variable. It asks [`crate::core::Control`] and
//! [`crate::auth::Accounts`], and nobody else.
//! Called by: the server, which puts [`routes()`] behind [`crate::auth::Gate::guard`].
//! Nothing here survives a restart.

mod acts;
mod answer;
mod assets;
mod edit;
mod entry;
mod frame;
mod live;
mod looks;
mod pages;
mod routes;
mod status;
mod text;

pub use routes::{Face, entries, routes};
