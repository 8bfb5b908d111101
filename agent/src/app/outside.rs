//! The way in from outside: the sockets for it, and where status says it is.

use std::net::{Ipv4Addr, SocketAddr};

use agentd_protocol::places::Layout;
use agentd_protocol::security::Mode;
use agentd_sys::causes::chain;
use tokio::sync::watch;

use super::{Error, RunOptions};
use crate::config::Home;
use crate::edge_launch::{self, PublicSockets, Reach};
use crate::firewall::Truth;

/// Without a mode to shut it, what may be open is.
pub(super) fn wanted(options: &RunOptions, home: &Home) -> edge_launch::Outside {
    match home.places.layout {
        Layout::System => edge_launch::Outside::WhenOpened,
        Layout::Home if options.public || options.enforce_security => edge_launch::Outside::WhenOpened,
        Layout::Home => edge_launch::Outside::Never,
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

    /// Opens and shuts as the mode does, for as long as the firewall's task lives. Rules come before an opening, and
    /// an end of outside traffic before a shutting: the truth is told when the kernel has it.
    pub(super) async fn follow(self, mut truth: watch::Receiver<Truth>) {
        loop {
            let reach = reach(self.sockets.reach(), &truth.borrow_and_update());
            if reach != self.sockets.reach() {
                match self.set(reach) {
                    Ok(()) => tracing::info!(?reach, "who may reach the proxy's port has changed"),
                    Err(error) => tracing::error!(error = chain(&error), "the proxy's port stays as it was"),
                }
            }
            if truth.changed().await.is_err() {
                return;
            }
        }
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

/// Who may reach the port now. On trial a mode may end without any process of ours, so what either of the two modes needs
/// stays open; and rules that somebody removed are put back, so nothing is shut for them.
fn reach(now: Reach, truth: &Truth) -> Reach {
    if truth.unmanaged.is_some() {
        // Rules that cannot be kept any more are no reason to open what they had shut.
        return if truth.mode == Mode::Open { Reach::Everybody } else { Reach::Loopback };
    }
    let trial = truth.trial.as_ref().map(|trial| trial.to.mode);
    match (truth.mode, trial) {
        _ if !truth.known => now,
        (Mode::Tunnel, None | Some(Mode::Tunnel)) => Reach::Loopback,
        _ if truth.altered.is_some() => now,
        (Mode::Open | Mode::DaemonPort, _) | (Mode::Tunnel, Some(Mode::Open | Mode::DaemonPort)) => Reach::Everybody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Truth;

    #[test]
    fn the_port_follows_the_mode_and_waits_for_the_rules() {
        let told = |mode| Truth { known: true, mode, ..Truth::unknown() };
        for now in [Reach::Loopback, Reach::Everybody] {
            assert_eq!(reach(now, &Truth::unknown()), now, "nothing is known yet");
            assert_eq!(reach(now, &told(Mode::Tunnel)), Reach::Loopback);
            assert_eq!(reach(now, &told(Mode::DaemonPort)), Reach::Everybody);
            assert_eq!(reach(now, &told(Mode::Open)), Reach::Everybody);
            let gone = Truth { altered: Some("removed".to_owned()), ..told(Mode::DaemonPort) };
            assert_eq!(reach(now, &gone), now, "not opened without rules, not shut for the moment they are away");
            let gone = Truth { altered: Some("removed".to_owned()), ..told(Mode::Tunnel) };
            assert_eq!(reach(now, &gone), Reach::Loopback);
        }
        let nobody = Truth { unmanaged: Some("a home".to_owned()), ..Truth::unknown() };
        assert_eq!(reach(Reach::Loopback, &nobody), Reach::Everybody);
        assert_eq!(reach(Reach::Everybody, &Truth { mode: Mode::DaemonPort, ..nobody }), Reach::Loopback);
    }
}
