use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_protocol::api::Origin;
use agentd_protocol::security::Mode;
use serde_json::Value;

use super::*;
use crate::firewall::files::Files;
use crate::firewall::kernel::Kernel;
use crate::firewall::transaction::Wish;
use crate::firewall::ufw::fake;
use crate::firewall::watchdog::{self, Watchdog};
use crate::firewall::{Facts, Ruleset};

/// Whether there is a table; nobody is told whose.
#[derive(Debug, Default)]
struct Table(Mutex<bool>);

impl Kernel for Table {
    fn check(&self, _: &Ruleset) -> Result<(), nft::Error> {
        Ok(())
    }

    fn apply(&self, ruleset: &Ruleset) -> Result<(), nft::Error> {
        *self.0.lock().unwrap() = *ruleset != ruleset::confirmed(&Policy::open(), &self.facts());
        Ok(())
    }

    fn table(&self) -> Result<Option<Value>, nft::Error> {
        Ok(self.0.lock().unwrap().then_some(Value::Null))
    }

    fn facts(&self) -> Facts {
        Facts { ssh_ports: [22].into(), ..Facts::default() }
    }
}

#[derive(Debug)]
struct Asleep;

impl Watchdog for Asleep {
    fn arm(&self, _: &str, _: &Path) -> Result<(), watchdog::Error> {
        Ok(())
    }
}

#[test]
fn nothing_of_ours_is_left_and_again_is_fine() {
    let (dir, world, table) = (tempfile::tempdir().unwrap(), fake::world("theirs\n"), Arc::new(Table::default()));
    let core = Transactions::new(table.clone(), Arc::new(Asleep), Files::below(dir.path()));
    let core = core.with_ufw(Some(world.ufw.clone()));
    assert_eq!(remove(&core), Removed::default(), "where nothing ever was");
    assert!(!core.files().is_there());

    let to = Policy { mode: Mode::DaemonPort, proxy_tcp: [8080].into(), ..Policy::open() };
    let wish = |mode| Wish { to: Policy { mode, ..to.clone() }, by: Origin::Local, document: None };
    let tx = core.begin(&wish(Mode::DaemonPort), None, Duration::from_secs(60)).unwrap().tx;
    core.confirm(&tx).unwrap();
    core.begin(&wish(Mode::Tunnel), None, Duration::from_secs(60)).unwrap();
    assert_ne!(world.rules(), "theirs\n");
    // One that ufw does not give up stays in the journal, and is told.
    std::fs::write(world.dir.path().join("deaf"), "").unwrap();
    let removed = remove(&core);
    assert!(removed.left.len() == 1 && removed.left[0].contains("ufw"), "{removed:?}");
    assert!(core.files().journal_path().exists() && !*table.0.lock().unwrap());
    std::fs::remove_file(world.dir.path().join("deaf")).unwrap();
    let removed = remove(&core);
    assert!(
        removed.left.is_empty() && removed.done.iter().any(|line| line.contains("as it was before")),
        "{removed:?}"
    );
    assert_eq!((world.rules().as_str(), core.files().is_there()), ("theirs\n", false));
    assert_eq!(remove(&core), Removed::default());
}
