//! The server as a process: its folder, its listeners, and its end.
//!
//! Owns: the lock of the home, the sockets, TLS, the one place where the routers of all rooms are merged, and draining.
//! Must never know: what is answered. Called by: the command line. Nothing here survives a restart.

mod connections;
mod home;
mod packages;
mod progress;
mod proxies;
mod router;
mod run;
mod socket;
mod sources;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use home::{Home, KEY_FILE};
pub use run::{Options, run};
pub use socket::SOCKET;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make the folder {path}: check that its parent exists and that this user may write there")]
    Home {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another controld runs on {path}{}", pid.map(|pid| format!(", process {pid}")).unwrap_or_default())]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("cannot listen on {address}: another program may have it; choose another with --listen")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot make the socket {path}")]
    Socket {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{address} can be reached from other machines, and there is no TLS: give --tls-cert and --tls-key, listen on loopback \
         behind a proxy that has TLS, or say --insecure-listen"
    )]
    Plain { address: SocketAddr },
    #[error("--tls-cert and --tls-key go together")]
    HalfTls,
    #[error("cannot read the certificate or key file {path}: both are PEM")]
    TlsFile {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("certificate and key do not make a TLS server")]
    Tls(#[source] rustls::Error),
    #[error(transparent)]
    Accounts(#[from] crate::auth::Error),
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error(transparent)]
    Seal(#[from] crate::seal::Error),
    #[error("git cannot be used to look branches up")]
    Git(#[from] agentd_git::Error),
    #[error(transparent)]
    Core(#[from] crate::core::Error),
}
