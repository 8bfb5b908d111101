//! The way in from outside: the sockets for it, and where status says it is.

use std::net::{Ipv4Addr, SocketAddr};

use agentd_protocol::places::Layout;
use tokio::sync::watch;

use super::{Error, RunOptions};
use crate::config::Home;
use crate::edge_launch::{self, PublicSockets, Reach};

/// Without a mode to shut it, what may be open is.
pub(super) fn wanted(options: &RunOptions, home: &Home) -> edge_launch::Outside {
    match (options.public, home.places.layout) {
        (true, _) | (false, Layout::System) => edge_launch::Outside::WhenOpened,
        (false, Layout::Home) => edge_launch::Outside::Never,
    }
}

#[derive(Debug, Clone)]
pub(super) struct Outside {
    pub(super) sockets: PublicSockets,
    loopback: SocketAddr,
    pub(super) address: watch::Sender<SocketAddr>,
}

impl Outside {
    pub(super) fn new(loopback: SocketAddr, sockets: PublicSockets) -> Self {
        Self { sockets, loopback, address: watch::Sender::new(loopback) }
    }

    pub(super) fn set(&self, reach: Reach) -> Result<(), Error> {
        self.sockets.set(reach).map_err(Error::Outside)?;
        let everybody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.loopback.port()));
        self.address.send_replace(match self.sockets.reach() {
            Reach::Everybody => everybody,
            Reach::Loopback => self.loopback,
        });
        Ok(())
    }
}
