use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use agentd_protocol::api::{Origin, SecurityConfirm, SecurityOrder};
use agentd_protocol::security::{Mode, Security};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::firewall::files::Files;
use crate::firewall::foreign::{Engine, NftSeen, Place, Runtime, Seen, UfwSeen, XdpSeen};
use crate::firewall::guard::{self, How, Peer};
use crate::firewall::inspect::Dropped;
use crate::firewall::kernel::Kernel;
use crate::firewall::ufw::{Ufw, fake};
use crate::firewall::watchdog::{self, Watchdog};
use crate::firewall::{Error, Facts, Session, Stamp, nft};

/// Remembers the stamps of what was applied last.
#[derive(Debug)]
struct Fake {
    found: Mutex<Found>,
    sessions: BTreeSet<Session>,
    ssh_ports: Mutex<BTreeSet<u16>>,
    /// nft is there and may not be used.
    is_barred: Mutex<bool>,
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
        if *self.is_barred.lock().unwrap() {
            return Err(nft::Error::NotPermitted);
        }
        Ok((self.found.lock().unwrap().clone(), Dropped::default()))
    }

    fn facts(&self) -> Facts {
        Facts {
            ssh_ports: self.ssh_ports.lock().unwrap().clone(),
            survivors: self.sessions.clone(),
            ..Facts::default()
        }
    }
}

#[derive(Debug)]
struct Asleep;

impl Watchdog for Asleep {
    fn arm(&self, _: &str, _: &Path) -> Result<(), watchdog::Error> {
        Ok(())
    }
}

/// A plain host; who is on SSH is as the kernel has it.
#[derive(Debug)]
struct Around {
    /// Held by a test, whoever asks waits.
    seen: Mutex<Seen>,
    sessions: BTreeSet<Session>,
    /// Logs in before so many looks from now.
    late: Mutex<Option<(u32, Session)>>,
}

impl Surroundings for Around {
    fn seen(&self, _: &BTreeSet<String>) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    fn on_ssh(&self, _: &Facts) -> Result<Vec<Peer>, guard::Error> {
        let peer = |session: &Session| Peer {
            address: session.peer.ip(),
            port: session.local.port(),
            interface: None,
            how: How::Held,
        };
        let mut late = self.late.lock().unwrap();
        if let Some((looks, _)) = &mut *late {
            *looks = looks.saturating_sub(1);
        }
        let late = late.iter().filter(|(looks, _)| *looks == 0).map(|(_, session)| session);
        Ok(self.sessions.iter().chain(late).map(peer).collect())
    }
}

fn plain_host() -> Seen {
    Seen {
        nft: NftSeen::Usable { has_notrack: false },
        ufw: UfwSeen::Absent,
        iptables: None,
        legacy_tables: BTreeSet::new(),
        is_firewalld_running: false,
        engines: BTreeSet::new(),
        forwarders: BTreeSet::new(),
        xdp: XdpSeen::On(BTreeSet::new()),
        place: Place::Host,
        may_administer: true,
        is_nftables_service_enabled: false,
        published: BTreeSet::new(),
    }
}

struct Bench {
    around: Arc<Around>,
    _dir: tempfile::TempDir,
    kernel: Arc<Fake>,
    handle: Handle,
    noted: Arc<Mutex<Vec<String>>>,
    _cancel: tokio_util::sync::DropGuard,
}

impl Bench {
    async fn new(sessions: &[Session]) -> Self {
        Self::on(plain_host(), sessions, false, None).await
    }

    async fn barred() -> Self {
        let seen = Seen { may_administer: false, nft: NftSeen::Refused("not permitted".to_owned()), ..plain_host() };
        Self::on(seen, &[], true, None).await
    }

    async fn on(seen: Seen, sessions: &[Session], is_barred: bool, ufw: Option<Ufw>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::new(Fake {
            found: Mutex::new(Found::Absent),
            sessions: sessions.iter().copied().collect(),
            ssh_ports: Mutex::new([22].into()),
            is_barred: Mutex::new(is_barred),
        });
        let sessions = sessions.iter().copied().collect();
        let around = Arc::new(Around { seen: Mutex::new(seen), sessions, late: Mutex::default() });
        let surroundings = around.clone();
        let noted = Arc::new(Mutex::new(Vec::new()));
        let (cancel, notes) = (CancellationToken::new(), Arc::clone(&noted));
        let handle = start(Setup {
            surroundings: surroundings.clone(),
            transactions: Transactions::new(kernel.clone(), Arc::new(Asleep), Files::below(dir.path())).with_ufw(ufw),
            owner: OwnerRules::default(),
            proxy: speaking().await,
            resolv_conf: dir.path().join("none"),
            control: None,
            note: Arc::new(move |what: What| notes.lock().unwrap().push(what.word().to_owned())),
            cancel: cancel.clone(),
        });
        Self { around, _dir: dir, kernel, handle, noted, _cancel: cancel.drop_guard() }
    }

    async fn until(&self, what: &str, condition: impl FnMut(&Truth) -> bool) -> Truth {
        let mut truth = self.handle.truth();
        let seen = tokio::time::timeout(Duration::from_secs(30), truth.wait_for(condition)).await;
        seen.unwrap_or_else(|_| panic!("waited until {what}: {:?}", self.handle.truth())).unwrap().clone()
    }

    /// Has it looked at the kernel once more, after a change of the document.
    async fn looks(&self, security: Option<Security>) {
        self.handle.document_wants(security, 8080);
        // The document is looked at after the first order and before the second.
        for _ in 0..2 {
            assert!(self.handle.revert().await.is_err(), "no trial runs");
        }
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
    assert_eq!(bench.handle.status().await.mode, Mode::Tunnel);
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
async fn an_ssh_server_that_restarts_during_a_look_changes_no_rule() {
    let bench = Bench::new(&[]).await;
    *bench.kernel.ssh_ports.lock().unwrap() = [2222].into();
    bench.handle.document_wants(None, 8080);
    let ssh = vec!["203.0.113.0/24".parse().unwrap()];
    let order = SecurityOrder { mode: Some(Mode::DaemonPort), ssh: Some(ssh), ..SecurityOrder::default() };
    bench.handle.apply(order).await.unwrap();
    bench.handle.confirm(SecurityConfirm::default(), None).await.unwrap();
    let revision = || match &*bench.kernel.found.lock().unwrap() {
        Found::Confirmed { revision, .. } => revision.clone(),
        other => panic!("{other:?}"),
    };
    let before = revision();
    *bench.kernel.ssh_ports.lock().unwrap() = BTreeSet::new();
    bench.looks(wants(Mode::Open)).await;
    assert_eq!(revision(), before);
    *bench.kernel.ssh_ports.lock().unwrap() = [2022].into();
    bench.looks(None).await;
    assert_ne!(revision(), before, "one that moved is followed");
}

/// Of a document's wish: it is decided, tried out twice by two looks, and judged once more.
#[tokio::test]
async fn whoever_logs_in_while_a_document_is_tried_out_is_asked_about() {
    let session = Session { local: "192.0.2.1:22".parse().unwrap(), peer: "198.51.100.20:4242".parse().unwrap() };
    let bench = Bench::new(&[]).await;
    *bench.around.late.lock().unwrap() = Some((5, session));
    bench.handle.document_wants(wants(Mode::Tunnel), 8080);
    let truth = bench.until("a person is asked", |truth| truth.awaiting.is_some()).await;
    assert!(truth.awaiting.unwrap().command.ends_with("--phrase \"block ssh from 198.51.100.20\""));
    assert_eq!((truth.mode, bench.kernel.found.lock().unwrap().clone()), (Mode::Open, Found::Absent));
    assert_eq!(bench.noted(), ["security.trial", "security.reverted", "security.awaiting-consent"]);
}

#[tokio::test]
async fn who_agreed_to_end_their_own_ssh_confirms_from_there_in_both_closed_modes() {
    let peer = "SSH_CONNECTION=198.51.100.20 4242 192.0.2.1 22";
    let session = Session { local: "192.0.2.1:22".parse().unwrap(), peer: "198.51.100.20:4242".parse().unwrap() };
    let (key, value) = peer.split_once('=').unwrap();
    let mut shell = std::process::Command::new("sleep").arg("60").env(key, value).spawn().unwrap();
    while crate::firewall::consent::session_of(shell.id()) != Some(session) {
        tokio::task::yield_now().await;
    }
    for mode in [Mode::DaemonPort, Mode::Tunnel] {
        let bench = Bench::new(&[session]).await;
        let confirm = || bench.handle.confirm(SecurityConfirm::default(), Some(shell.id()));
        let kept = vec!["198.51.100.0/24".parse().unwrap()];
        if mode == Mode::DaemonPort {
            let order = SecurityOrder { mode: Some(mode), ssh: Some(kept), ..SecurityOrder::default() };
            bench.handle.apply(order).await.unwrap();
            assert!(matches!(confirm().await, Err(Error::OldSession { .. })), "one that could come back is to");
            bench.handle.revert().await.unwrap();
        }
        let phrase = Some("block ssh from 198.51.100.20".to_owned());
        bench.handle.apply(SecurityOrder { mode: Some(mode), phrase, ..SecurityOrder::default() }).await.unwrap();
        confirm().await.unwrap();
    }
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[tokio::test]
async fn rules_are_put_back_while_an_order_waits_for_its_checks() {
    let bench = Bench::new(&[]).await;
    let order = |mode| SecurityOrder { mode: Some(mode), ..SecurityOrder::default() };
    bench.handle.apply(order(Mode::Tunnel)).await.unwrap();
    bench.handle.confirm(SecurityConfirm::default(), None).await.unwrap();
    bench.until("it is in force", |truth| truth.mode == Mode::Tunnel && truth.trial.is_none()).await;
    // Whoever asks who else filters here waits for as long as this is held.
    let (ask, hold) = (bench.handle.clone(), std::sync::mpsc::channel::<()>());
    let around = Arc::clone(&bench.around);
    let (held, is_held) = tokio::sync::oneshot::channel();
    let holder = lifecycle::spawn_blocking("test holder", move || {
        let _seen = around.seen.lock().unwrap();
        held.send(()).unwrap();
        // Ended by the test's own end.
        let _ = hold.1.recv();
    });
    is_held.await.unwrap();
    let plans = lifecycle::spawn("test plan", async move { ask.plan(SecurityOrder::default()).await });
    let ask = bench.handle.clone();
    let applies = lifecycle::spawn("test order", async move { ask.apply(order(Mode::DaemonPort)).await });
    *bench.kernel.found.lock().unwrap() = Found::Absent;
    bench.until("it is put back", |truth| truth.repairs == 1).await;
    assert!(!applies.is_finished() && !plans.is_finished());
    drop(hold.0);
    holder.await.unwrap();
    applies.await.unwrap().unwrap();
    plans.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_speaks_against_a_mode_is_a_persons_to_overrule() {
    let bench = Bench::new(&[]).await;
    let mut seen = plain_host();
    seen.engines.insert(Engine::Kubernetes);
    seen.nft = NftSeen::Usable { has_notrack: true };
    seen.xdp = XdpSeen::On(["eth7".to_owned()].into());
    *bench.around.seen.lock().unwrap() = seen;
    bench.handle.document_wants(wants(Mode::Tunnel), 8080);
    let truth = bench.until("a person is asked", |truth| truth.awaiting.is_some()).await;
    assert_eq!(truth.awaiting.unwrap().command, "agentctl security apply --mode tunnel --accept --force");

    let order = SecurityOrder { mode: Some(Mode::Tunnel), ..SecurityOrder::default() };
    let plan = bench.handle.plan(order.clone()).await.unwrap();
    assert_eq!((plan.asks.len(), plan.refuses.len(), plan.enforcement.as_str()), (1, 1, "nftables"));
    assert!(plan.tools.iter().any(|tool| tool.starts_with("cannot vouch: ") && tool.contains("eth7")), "{plan:?}");
    assert!(matches!(bench.handle.apply(order.clone()).await, Err(Error::Refused { .. })));
    let forced = SecurityOrder { force: true, ..order };
    assert!(matches!(bench.handle.apply(forced.clone()).await, Err(Error::NotAccepted { .. })));
    assert_eq!(*bench.kernel.found.lock().unwrap(), Found::Absent);
    bench.handle.apply(SecurityOrder { accept: true, ..forced }).await.unwrap();
    assert!(bench.noted().contains(&"security.overruled".to_owned()), "{:?}", bench.noted());
    bench.handle.confirm(SecurityConfirm::default(), None).await.unwrap();
    let truth = bench.until("it is in force", |truth| truth.mode == Mode::Tunnel && truth.trial.is_none()).await;
    assert!(truth.enforcement.starts_with("nftables; cannot vouch: XDP"), "{}", truth.enforcement);
}

#[tokio::test]
async fn what_can_keep_nothing_refuses_and_ufw_alone_is_asked_about() {
    let bench = Bench::new(&[]).await;
    let order = |mode| SecurityOrder { mode: Some(mode), ..SecurityOrder::default() };
    bench.around.seen.lock().unwrap().nft = NftSeen::Missing;
    let Err(Error::Refused { findings }) = bench.handle.apply(order(Mode::DaemonPort)).await else { panic!() };
    assert!(findings.contains("apt install nftables"), "{findings}");
    bench.around.seen.lock().unwrap().ufw =
        UfwSeen::Installed { runtime: Runtime::Active, at_boot: true, manages_ipv6: true };
    assert!(matches!(bench.handle.apply(order(Mode::DaemonPort)).await, Err(Error::NotAccepted { .. })));
    assert!(matches!(bench.handle.apply(order(Mode::Tunnel)).await, Err(Error::Refused { .. })));
    bench.handle.apply(SecurityOrder { accept: true, ..order(Mode::DaemonPort) }).await.unwrap();
    let truth = bench.until("it is on trial", |truth| truth.trial.is_some()).await;
    assert!(truth.enforcement.starts_with("partial (ufw), on trial: nft is not installed"), "{}", truth.enforcement);
    assert_eq!(truth.exposure, Exposure::Unmanaged, "ufw's owner lets in what they like");
    assert!(bench.handle.brief().is_kept, "on trial, and in part: neither is a fault");
}

#[tokio::test]
async fn allows_of_ufw_that_go_are_put_back_once_and_then_said() {
    let world = fake::world("");
    let active = UfwSeen::Installed { runtime: Runtime::Active, at_boot: true, manages_ipv6: true };
    let seen = Seen { ufw: active, ..plain_host() };
    let bench = Bench::on(seen, &[], false, Some(world.ufw.clone())).await;
    bench.handle.document_wants(None, 8080);
    let order = SecurityOrder { mode: Some(Mode::DaemonPort), ..SecurityOrder::default() };
    bench.handle.apply(order).await.unwrap();
    bench.handle.confirm(SecurityConfirm::default(), None).await.unwrap();
    let enforcement = || bench.handle.truth().borrow().enforcement.clone();
    let rules = || world.rules().lines().count();
    let is_repaired = || bench.noted().contains(&"security.repaired".to_owned());
    assert_eq!((enforcement().as_str(), rules(), is_repaired()), ("nftables (+ufw allows)", 2, false));
    let reset = || world.ufw.rules.iter().for_each(|path| std::fs::write(path, "").unwrap());

    reset();
    bench.looks(wants(Mode::Open)).await;
    assert_eq!((enforcement().as_str(), rules(), is_repaired()), ("nftables (+ufw allows)", 2, true));
    reset();
    bench.looks(None).await;
    assert_eq!(rules(), 0, "whoever deletes them again means it");
    let said = "ufw drops what the mode lets in (2 allows were deleted again): `ufw allow proto tcp from 0.0.0.0/0";
    assert!(enforcement().starts_with(&format!("nftables; {said}")), "{}", enforcement());
    assert!(bench.handle.brief().notice.unwrap().starts_with(said));

    let deny = "### tuple ### deny tcp 8080 0.0.0.0/0 any 0.0.0.0/0 in\n";
    std::fs::write(&world.ufw.rules[0], deny).unwrap();
    bench.looks(wants(Mode::Open)).await;
    assert!(enforcement().contains("does otherwise (Deny) for TCP port 8080"), "{}", enforcement());
    assert_eq!(world.rules(), deny);
    let allows = [deny.replace("deny", "allow"), "### tuple ### allow tcp 8080 ::/0 any ::/0 in\n".to_owned()];
    world.ufw.rules.iter().zip(allows).for_each(|(path, text)| std::fs::write(path, text).unwrap());
    bench.looks(None).await;
    assert_eq!((enforcement().as_str(), bench.handle.brief().notice), ("nftables (+ufw allows)", None));
}

#[tokio::test]
async fn an_nft_that_may_not_be_used_leaves_the_host_open_and_says_why() {
    let bench = Bench::barred().await;
    let truth = bench.until("it was looked at", |truth| truth.known).await;
    assert_eq!((truth.mode, truth.altered.clone()), (Mode::Open, None), "the proxy serves outside");
    assert!(truth.enforcement.starts_with("nothing, nor could it be: no CAP_NET_ADMIN"), "{}", truth.enforcement);
    bench.handle.document_wants(wants(Mode::Tunnel), 8080);
    bench.until("a person is told", |truth| truth.awaiting.is_some()).await;
    let limitation = bench.handle.limitation().unwrap();
    assert!(limitation.contains("tunnel, which is not enforced here: no CAP_NET_ADMIN"), "{limitation}");
    let plan = bench.handle.plan(SecurityOrder { mode: Some(Mode::Tunnel), ..SecurityOrder::default() }).await.unwrap();
    assert_eq!(plan.enforcement, "nothing: no CAP_NET_ADMIN");
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
