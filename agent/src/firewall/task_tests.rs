use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use agentd_protocol::api::{Origin, SecurityConfirm, SecurityOrder};
use agentd_protocol::security::{Mode, Security};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::firewall::files::Files;
use crate::firewall::inspect::Dropped;
use crate::firewall::kernel::Kernel;
use crate::firewall::watchdog::{self, Watchdog};
use crate::firewall::{Error, Facts, Stamp, nft};

/// Remembers the stamps of what was applied last.
#[derive(Debug)]
struct Fake {
    found: Mutex<Found>,
    sessions: BTreeSet<Session>,
}

impl Kernel for Fake {
    fn check(&self, _: &Ruleset) -> Result<(), nft::Error> {
        Ok(())
    }

    fn apply(&self, ruleset: &Ruleset) -> Result<(), nft::Error> {
        let text = ruleset.text();
        let mut stamps: Vec<Stamp> = text.split('"').filter_map(Stamp::find).collect();
        stamps.dedup();
        let to = stamps.iter().find(|stamp| stamp.revision == ruleset.revision).cloned();
        let from = stamps.iter().find(|stamp| stamp.revision != ruleset.revision).cloned();
        *self.found.lock().unwrap() = match (from, to) {
            (_, None) => Found::Absent,
            (None, Some(stamp)) => Found::Confirmed { mode: stamp.mode, revision: stamp.revision },
            (Some(from), Some(to)) => Found::Trial { from, to, left: Duration::from_secs(9) },
        };
        Ok(())
    }

    fn table(&self) -> Result<Option<Value>, nft::Error> {
        Ok(None)
    }

    fn look(&self) -> Result<(Found, Dropped), nft::Error> {
        Ok((self.found.lock().unwrap().clone(), Dropped::default()))
    }

    fn facts(&self) -> Facts {
        Facts { ssh_ports: [22].into(), survivors: self.sessions.clone(), ..Facts::default() }
    }
}

#[derive(Debug)]
struct Asleep;

impl Watchdog for Asleep {
    fn arm(&self, _: &str, _: Duration, _: &Path) -> Result<(), watchdog::Error> {
        Ok(())
    }

    fn disarm(&self, _: &str) {}
}

struct Bench {
    _dir: tempfile::TempDir,
    kernel: Arc<Fake>,
    handle: Handle,
    noted: Arc<Mutex<Vec<String>>>,
    _cancel: tokio_util::sync::DropGuard,
}

impl Bench {
    async fn new(sessions: &[Session]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::new(Fake { found: Mutex::new(Found::Absent), sessions: sessions.iter().copied().collect() });
        let noted = Arc::new(Mutex::new(Vec::new()));
        let (cancel, notes) = (CancellationToken::new(), Arc::clone(&noted));
        let handle = start(Setup {
            transactions: Transactions::new(kernel.clone(), Arc::new(Asleep), Files::below(dir.path())),
            owner: OwnerRules::default(),
            proxy: speaking().await,
            resolv_conf: dir.path().join("none"),
            note: Arc::new(move |what: What| notes.lock().unwrap().push(what.word().to_owned())),
            cancel: cancel.clone(),
        });
        Self { _dir: dir, kernel, handle, noted, _cancel: cancel.drop_guard() }
    }

    async fn until(&self, what: &str, condition: impl FnMut(&Truth) -> bool) -> Truth {
        let mut truth = self.handle.truth();
        let seen = tokio::time::timeout(Duration::from_secs(30), truth.wait_for(condition)).await;
        seen.unwrap_or_else(|_| panic!("waited until {what}: {:?}", self.handle.status())).unwrap().clone()
    }

    fn noted(&self) -> Vec<String> {
        self.noted.lock().unwrap().clone()
    }
}

/// A proxy as far as the checks ask for one.
async fn speaking() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lifecycle::spawn("test proxy", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 1_000];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await.unwrap();
        }
    });
    address
}

fn wants(mode: Mode) -> Option<Security> {
    Some(Security { mode, ssh: Vec::new() })
}

#[tokio::test]
async fn a_document_shuts_the_host_by_green_checks_and_cannot_open_it() {
    let bench = Bench::new(&[]).await;
    bench.handle.document_wants(wants(Mode::Tunnel), 8080);
    let truth = bench.until("tunnel is confirmed", |truth| truth.mode == Mode::Tunnel).await;
    assert_eq!(truth.origin, Some(Origin::Document));
    let truth = bench.until("it is seen in the kernel", |truth| truth.trial.is_none() && truth.last.is_some()).await;
    assert_eq!(
        (truth.exposure, bench.noted()),
        (Mode::Tunnel.exposure(), vec!["security.trial".into(), "security.applied".into()])
    );

    bench.handle.document_wants(wants(Mode::Open), 8080);
    let truth = bench.until("a person is asked", |truth| truth.awaiting.is_some()).await;
    assert_eq!(truth.awaiting.unwrap().command, "agentctl security apply --mode open");
    assert_eq!(truth.mode, Mode::Tunnel);
    bench.handle.document_wants(None, 8080);
    bench.until("no section leaves the mode alone", |truth| truth.awaiting.is_none()).await;
    assert_eq!(bench.handle.status().mode, Mode::Tunnel);
    assert!(bench.noted().contains(&"security.awaiting-consent".to_owned()));
}

#[tokio::test]
async fn nobodys_ssh_ends_but_by_a_phrase_and_the_choice_is_kept() {
    let session = Session { local: "192.0.2.1:22".parse().unwrap(), peer: "198.51.100.20:4242".parse().unwrap() };
    let bench = Bench::new(&[session]).await;
    bench.handle.document_wants(wants(Mode::Tunnel), 8080);
    let truth = bench.until("a person is asked", |truth| truth.awaiting.is_some()).await;
    assert!(truth.awaiting.unwrap().command.ends_with("--phrase \"block ssh from 198.51.100.20\""));
    assert_eq!(*bench.kernel.found.lock().unwrap(), Found::Absent);

    let order = SecurityOrder { mode: Some(Mode::DaemonPort), ..SecurityOrder::default() };
    assert!(matches!(bench.handle.apply(order.clone()).await, Err(Error::Stranded { .. })));
    let phrase = Some("block ssh from 198.51.100.20".to_owned());
    let done = bench.handle.apply(SecurityOrder { phrase, ..order }).await.unwrap();
    assert_eq!(done.trial.unwrap().to, Mode::DaemonPort);
    bench.handle.confirm(SecurityConfirm::default(), None).await.unwrap();
    let truth = bench.until("it is in force", |truth| truth.mode == Mode::DaemonPort && truth.trial.is_none()).await;
    assert_eq!(truth.origin, Some(Origin::Local));
    assert!(matches!(bench.handle.revert().await, Err(Error::Transaction(transaction::Error::NoTrial))));

    // Somebody meddles; the next look finds it.
    *bench.kernel.found.lock().unwrap() = Found::Absent;
    let plan = bench.handle.plan(SecurityOrder::default()).await.unwrap();
    assert_eq!((plan.now, plan.ssh.len()), (Mode::DaemonPort, 1));
    bench.until("it is put back", |truth| truth.repairs == 1).await;
    assert!(matches!(*bench.kernel.found.lock().unwrap(), Found::Confirmed { .. }));
}

#[tokio::test]
async fn where_nothing_is_enforced_a_document_that_asks_is_not_ignored() {
    let handle = unmanaged("a home keeps no firewall".to_owned(), Mode::Open);
    assert_eq!(handle.limitation(), None);
    handle.document_wants(wants(Mode::Tunnel), 8080);
    assert!(handle.limitation().unwrap().contains("tunnel, which is not enforced here: a home keeps no firewall"));
    assert!(handle.brief().notice.unwrap().contains("not enforced"));
    assert!(matches!(handle.revert().await, Err(Error::Unmanaged(_))));
    handle.document_wants(wants(Mode::Open), 8080);
    assert_eq!(handle.limitation(), None);
}
