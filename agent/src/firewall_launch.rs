//! Whether this manager keeps a firewall, and with what; wiring that would make app.rs too long to read.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use agentd_protocol::places::Layout;
use agentd_sys::causes::chain;
use tokio_util::sync::CancellationToken;

use crate::app::RunOptions;
use crate::config::Home;
use crate::firewall::checks::RESOLV_CONF;
use crate::firewall::files::Files;
use crate::firewall::nft::Nft;
use crate::firewall::watchdog::OwnProcess;
use crate::firewall::{self, Handle, OwnerRules, Setup, Transactions};
use crate::reconcile;

pub fn start(
    options: &RunOptions,
    home: &Home,
    external: SocketAddr,
    reconcile: &reconcile::Handle,
    cancel: &CancellationToken,
) -> Handle {
    let nft = match permitted(options, home).and_then(|()| Nft::find().map_err(|error| chain(&error))) {
        Ok(nft) => nft,
        Err(reason) => return firewall::unmanaged(reason),
    };
    let watchdog = OwnProcess::choose(home.places.layout == Layout::System);
    let journal = reconcile.clone();
    firewall::start(Setup {
        transactions: Transactions::new(Arc::new(nft), Arc::new(watchdog), Files::below(&home.state_dir)),
        owner: OwnerRules::default(),
        proxy: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), external.port()),
        resolv_conf: RESOLV_CONF.into(),
        note: Arc::new(move |what| journal.note_host(what)),
        cancel: cancel.clone(),
    })
}

fn permitted(options: &RunOptions, home: &Home) -> Result<(), String> {
    if home.places.layout == Layout::Home && !options.enforce_security {
        return Err("an agent of a home keeps no firewall; `agentd run --system` does".to_owned());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("only root may change the firewall".to_owned());
    }
    Ok(())
}
