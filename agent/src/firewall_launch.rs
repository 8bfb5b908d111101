//! Whether this manager keeps a firewall, and with what; wiring that would make app.rs too long to read.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use agentd_protocol::places::Layout;
use agentd_protocol::security::Mode;
use agentd_sys::causes::chain;
use tokio_util::sync::CancellationToken;

use crate::app::RunOptions;
use crate::config::{Error, Home};
#[cfg(test)]
use crate::firewall::DocumentMay;
use crate::firewall::checks::{Answers, RESOLV_CONF};
use crate::firewall::files::Files;
use crate::firewall::kernel;
use crate::firewall::surroundings::ThisHost;
use crate::firewall::ufw::Ufw;
use crate::firewall::watchdog::OwnProcess;
use crate::firewall::{self, Handle, OwnerRules, Setup, Transactions};
use crate::policy::Policy;
use crate::reconcile;

pub fn start(
    options: &RunOptions,
    home: &Home,
    external: SocketAddr,
    reconcile: &reconcile::Handle,
    control: Option<Answers>,
    cancel: &CancellationToken,
) -> Result<Handle, Error> {
    let owner = owner_rules(&home.policy_file())?;
    let files = Files::below(&home.state_dir);
    let kernel = permitted(options, home).and_then(|()| kernel::of_this_host().map_err(|error| chain(&error)));
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(reason) => {
            return Ok(match files.active() {
                Ok(active) => firewall::unmanaged(reason, active.map_or(Mode::Open, |active| active.policy.mode)),
                // Something was confirmed: what boot makes of such a file shuts the proxy's port, too.
                Err(error) => firewall::unmanaged(format!("{reason}; {}", chain(&error)), Mode::DaemonPort),
            });
        }
    };
    let watchdog = OwnProcess::choose(home.places.layout == Layout::System);
    let keeps_ufw = home.places.layout == Layout::System || options.ufw;
    let ufw = keeps_ufw.then(Ufw::system);
    let journal = reconcile.clone();
    Ok(firewall::start(Setup {
        transactions: Transactions::new(kernel, Arc::new(watchdog), files).with_ufw(ufw),
        surroundings: Arc::new(ThisHost { ufw: Ufw::system() }),
        owner,
        proxy: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), external.port()),
        resolv_conf: RESOLV_CONF.into(),
        control,
        note: Arc::new(move |what| journal.note_host(what)),
        cancel: cancel.clone(),
    }))
}

/// What policy.toml says of what is let in.
pub(crate) fn owner_rules(path: &Path) -> Result<OwnerRules, Error> {
    Policy::read(path).map(Policy::owner_rules)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_owner_settled_is_read_or_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        assert_eq!(owner_rules(&path).unwrap(), OwnerRules::default());
        let text = "[security]\ndocument = \"nothing\"\nssh = [\"203.0.113.0/24\"]\nssh_interfaces = [\"wg0\"]\n";
        std::fs::write(&path, text).unwrap();
        let owner = owner_rules(&path).unwrap();
        assert_eq!((owner.document, owner.ssh.len(), owner.ssh_interfaces.len()), (DocumentMay::Nothing, 1, 1));
        std::fs::write(&path, "[security]\nssh = []\ndocument = \"everything\"\n").unwrap();
        assert!(matches!(owner_rules(&path), Err(Error::Settings { line: 3, .. })));
        for bad in ["wg*", "@set", "$var", "a/b", "a b", "sixteen-letters-", "", "lo", "a\\\"b", "a'b", "a:1", "a\\tb"]
        {
            std::fs::write(&path, format!("[security]\nssh = []\ntrusted_interfaces = [\"{bad}\"]\n")).unwrap();
            let refused = owner_rules(&path).unwrap_err();
            assert!(matches!(refused, Error::Settings { line: 3, .. }), "{bad}: {refused}");
            let told = refused.to_string();
            assert!(told.contains("policy.toml") && told.contains("`ip -brief link` shows them"), "{told}");
        }
        std::fs::write(&path, "[security]\nssh_interfaces = [\"fifteen-letters\", \"eth0.5\"]\n").unwrap();
        assert_eq!(owner_rules(&path).unwrap().ssh_interfaces.len(), 2);
        std::fs::write(&path, "\n[securty]\n").unwrap();
        assert!(matches!(owner_rules(&path), Err(Error::Settings { line: 2, .. })));
    }
}
