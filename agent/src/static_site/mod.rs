//! `agentd static`: the program of a `kind = "static"` service. It answers GET and HEAD from one folder of a release.
//!
//! Owns: which file a request means, and what caches may do with it. Must never know: any other room; it is started by
//! the supervisor under a shim like any program, finds HOST and PORT in its environment, and drains on SIGTERM.
//! No request reaches a file outside the folder: the kernel resolves every path beneath it, links included, and what is
//! then read is the very file that was found. Nothing here survives a restart; nothing need.

mod answer;
mod ask;
mod coding;
mod condition;
mod folder;
mod serve;
#[cfg(test)]
mod tests;

pub use serve::{Options, run};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the folder {path} cannot be served: `root` must name a folder of the release that `build` leaves there")]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{variable} is not set to an {what}; agentd sets it for every instance")]
    Address { variable: &'static str, what: &'static str },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("the server stopped")]
    Serve(#[source] io::Error),
}
