use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::firewall::kernel::WithoutNft;
use crate::firewall::load::{Loaded, load};
use crate::firewall::ufw::fake;

thread_local! {
    static DEATH: Cell<Option<Point>> = const { Cell::new(None) };
}

fn die(point: Point) {
    assert!(DEATH.get() != Some(point), "killed at {point:?}");
}

/// Has what was applied last, and refuses what it is told to refuse.
#[derive(Debug, Default)]
struct Fake {
    has: Mutex<Option<String>>,
    /// How many of the next calls fail.
    refused: Mutex<u32>,
    /// The next rules are in force, and cannot be read back.
    is_unread: Mutex<bool>,
    /// sshd restarts.
    is_ssh_away: Mutex<bool>,
}

impl Fake {
    fn refuses(&self) -> Result<(), nft::Error> {
        let mut refused = self.refused.lock().unwrap();
        *refused = refused.checked_sub(1).ok_or(()).map_or(0, |left| left + 1);
        if *refused == 0 {
            return Ok(());
        }
        *refused -= 1;
        Err(nft::Error::Missing)
    }

    fn has(&self) -> Option<String> {
        self.has.lock().unwrap().clone()
    }
}

impl Kernel for Fake {
    fn check(&self, _: &Ruleset) -> Result<(), nft::Error> {
        self.refuses()
    }

    fn apply(&self, ruleset: &Ruleset) -> Result<(), nft::Error> {
        self.refuses()?;
        *self.has.lock().unwrap() = Some(ruleset.text());
        if std::mem::take(&mut *self.is_unread.lock().unwrap()) { Err(nft::Error::NotAsWritten) } else { Ok(()) }
    }

    fn table(&self) -> Result<Option<Value>, nft::Error> {
        Ok(self.has().map(Value::from))
    }

    fn facts(&self) -> Facts {
        let ssh_ports = if *self.is_ssh_away.lock().unwrap() { [].into() } else { [2222].into() };
        Facts { ssh_ports, ..Facts::default() }
    }
}

/// An nft that is there and of no use.
#[derive(Debug)]
struct Unusable(fn() -> nft::Error);

impl Kernel for Unusable {
    fn check(&self, _: &Ruleset) -> Result<(), nft::Error> {
        Err((self.0)())
    }

    fn apply(&self, _: &Ruleset) -> Result<(), nft::Error> {
        Err((self.0)())
    }

    fn table(&self) -> Result<Option<Value>, nft::Error> {
        Err((self.0)())
    }

    fn facts(&self) -> Facts {
        WithoutNft.facts()
    }
}

#[derive(Debug, Default)]
pub(in crate::firewall) struct FakeWatchdog {
    armed: Mutex<Vec<String>>,
    broken: Mutex<bool>,
}

impl Watchdog for FakeWatchdog {
    fn arm(&self, tx: &str, _: &Path) -> Result<(), watchdog::Error> {
        if *self.broken.lock().unwrap() {
            return Err(watchdog::Error::Failed { program: "systemd-run", said: "no".into() });
        }
        self.armed.lock().unwrap().push(tx.to_owned());
        Ok(())
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    kernel: Arc<Fake>,
    watchdog: Arc<FakeWatchdog>,
    core: Transactions,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, watchdog) = (Arc::new(Fake::default()), Arc::new(FakeWatchdog::default()));
        let mut core = Transactions::new(kernel.clone(), watchdog.clone(), Files::below(dir.path()));
        core.reached = die;
        Self { _dir: dir, kernel, watchdog, core }
    }

    /// With `daemon-port` confirmed.
    fn closed() -> Self {
        let bench = Self::new();
        let pending = bench.core.begin(&wish(port()), None, LONG).unwrap();
        bench.core.confirm(&pending.tx).unwrap();
        bench
    }

    fn has_rules_of(&self, policy: &Policy) -> bool {
        self.kernel.has() == Some(ruleset::confirmed(policy, &self.kernel.facts()).text())
    }

    /// Watchdogs that have not seen an end yet.
    fn armed(&self) -> usize {
        let (pending, now) = (self.core.files().pending().unwrap(), Moment::now());
        let guards = |tx: &&String| watchdog::step(pending.as_ref(), tx, &now) != watchdog::Step::End;
        self.watchdog.armed.lock().unwrap().iter().filter(guards).count()
    }

    /// Runs `act` up to the point where the process dies.
    fn dies_at(&self, point: Point, act: impl FnOnce(&Transactions)) {
        DEATH.set(Some(point));
        let died = catch_unwind(AssertUnwindSafe(|| act(&self.core)));
        DEATH.set(None);
        assert!(died.is_err(), "{point:?} was not reached");
    }
}

const LONG: Duration = Duration::from_secs(600);

fn port() -> Policy {
    Policy { mode: Mode::DaemonPort, proxy_tcp: [8080].into(), ..Policy::open() }
}

fn tunnel() -> Policy {
    Policy { mode: Mode::Tunnel, ..Policy::open() }
}

fn wish(to: Policy) -> Wish {
    Wish { to, by: Origin::Local, document: None }
}

#[test]
fn a_trial_that_is_confirmed_stays_and_one_that_is_not_goes() {
    let bench = Bench::new();
    let pending = bench.core.begin(&wish(port()), None, LONG).unwrap();
    let trial = ruleset::trial(&Policy::open(), &port(), &bench.kernel.facts(), LONG).text();
    assert_eq!(bench.kernel.has(), Some(trial));
    assert_eq!((bench.armed(), bench.core.policy().unwrap()), (1, Policy::open()));
    assert!(matches!(bench.core.begin(&wish(tunnel()), None, LONG), Err(Error::TrialRuns { .. })));
    assert!(matches!(bench.core.confirm("another"), Err(Error::NoTrial)));
    let active = bench.core.confirm(&pending.tx).unwrap();
    assert_eq!(active, bench.core.confirm(&pending.tx).unwrap(), "twice is once");
    assert!(bench.has_rules_of(&port()) && bench.armed() == 0);
    assert_eq!(bench.core.revert(Some(&pending.tx)).unwrap(), Reverted::Nothing, "a watchdog that comes late");
    assert!(bench.has_rules_of(&port()));

    let pending = bench.core.begin(&wish(tunnel()), None, LONG).unwrap();
    assert_eq!(bench.core.revert(Some("another")).unwrap(), Reverted::Nothing);
    assert_eq!(bench.core.revert(Some(&pending.tx)).unwrap(), Reverted::Done);
    assert!(bench.has_rules_of(&port()) && bench.armed() == 0);
    assert!(matches!(bench.core.confirm(&pending.tx), Err(Error::NoTrial)));
    let pending = bench.core.begin(&wish(Policy::open()), None, LONG).unwrap();
    bench.core.confirm(&pending.tx).unwrap();
    assert!(bench.has_rules_of(&Policy::open()), "open removes the table");
}

#[test]
fn a_confirmation_after_the_deadline_brings_back_the_rules_of_before() {
    let bench = Bench::closed();
    let pending = bench.core.begin(&wish(tunnel()), None, Duration::ZERO).unwrap();
    assert!(matches!(bench.core.confirm(&pending.tx), Err(Error::TooLate)));
    assert!(bench.has_rules_of(&port()));
    assert_eq!(bench.core.files().pending().unwrap(), None);
    bench.core.begin(&wish(tunnel()), None, Duration::ZERO).unwrap();
    bench.core.begin(&wish(tunnel()), None, LONG).expect("one that is over is in nobody's way");
}

#[test]
fn what_cannot_begin_changes_nothing() {
    let bench = Bench::closed();
    let untouched = || {
        assert!(bench.has_rules_of(&port()));
        assert_eq!((bench.core.files().pending().unwrap(), bench.armed()), (None, 0));
    };
    *bench.kernel.refused.lock().unwrap() = 1;
    assert!(matches!(bench.core.begin(&wish(tunnel()), None, LONG), Err(Error::Check(_))));
    untouched();
    *bench.watchdog.broken.lock().unwrap() = true;
    assert!(matches!(bench.core.begin(&wish(tunnel()), None, LONG), Err(Error::Watchdog(_))));
    untouched();
}

/// The proxy's port of `port()`, as an active UFW without IPv6 has it.
const OURS: &str = "### tuple ### allow tcp 8080 0.0.0.0/0 any 0.0.0.0/0 in comment=6167656e74643a70726f7879\n";

fn ufw_world(rules: &str) -> fake::World {
    let world = fake::world(rules);
    std::fs::write(&world.ufw.defaults, "IPV6=no\n").unwrap();
    world
}

impl Bench {
    fn with_ufw(self, world: &fake::World) -> Self {
        Self { core: self.core.with_ufw(Some(world.ufw.clone())), ..self }
    }
}

#[test]
fn ufw_has_what_the_modes_of_a_trial_need_and_in_the_end_what_the_one_needs() {
    let world = ufw_world("");
    let bench = Bench::new().with_ufw(&world);
    bench.core.begin(&wish(port()), None, LONG).unwrap();
    assert_eq!(world.rules(), OURS, "before it is confirmed");
    bench.core.revert(None).unwrap();
    assert_eq!(world.rules(), "", "taken back with the trial");
    let tx = bench.core.begin(&wish(port()), None, LONG).unwrap().tx;
    bench.core.confirm(&tx).unwrap();
    assert_eq!((world.rules().as_str(), bench.core.has_allows_left(Mode::DaemonPort)), (OURS, false));
    let other = Policy { proxy_tcp: [9090].into(), ..port() };
    bench.core.begin(&wish(other), None, LONG).unwrap();
    assert_eq!(world.rules(), OURS.to_owned() + &OURS.replace("8080", "9090"), "the kernel may go back by itself");
    bench.core.revert(None).unwrap();
    assert_eq!(world.rules(), OURS);
    let tx = bench.core.begin(&wish(tunnel()), None, LONG).unwrap().tx;
    assert_eq!(world.rules(), OURS);
    bench.core.confirm(&tx).unwrap();
    assert_eq!(world.rules(), "");
    assert!(!bench.core.files().journal_path().exists());
}

#[test]
fn allows_that_a_trials_end_could_not_take_back_are_taken_back_later() {
    let world = ufw_world("");
    let bench = Bench::new().with_ufw(&world);
    bench.core.begin(&wish(port()), None, LONG).unwrap();
    // Whoever ends it has no say in UFW: a guard that was started before there was a journal.
    let without = Transactions { ufw: None, ..bench.core.clone() };
    bench.core.settle_allows().unwrap();
    assert_eq!(world.rules(), OURS, "a trial that runs needs them");
    without.revert(None).unwrap();
    assert_eq!((world.rules().as_str(), bench.core.has_allows_left(Mode::Open)), (OURS, true));
    bench.core.settle_allows().unwrap();
    assert_eq!((world.rules().as_str(), bench.core.has_allows_left(Mode::Open)), ("", false));
}

#[test]
fn an_owners_deny_refuses_the_order_with_its_text_and_nothing_is_changed() {
    let deny = "### tuple ### deny tcp 8080 0.0.0.0/0 any 0.0.0.0/0 in\n";
    let world = ufw_world(deny);
    let bench = Bench::new().with_ufw(&world);
    let told = |error: Error| agentd_sys::causes::chain(&error);
    let refused = told(bench.core.begin(&wish(port()), None, LONG).unwrap_err());
    assert!(refused.contains("a rule of yours that does otherwise (Deny) for TCP port 8080"), "{refused}");
    assert_eq!(told(bench.core.check(&port(), LONG).unwrap_err()), refused, "the plan says the same");
    assert_eq!((world.rules().as_str(), bench.kernel.has(), bench.armed()), (deny, None, 0));
    bench.core.begin(&wish(tunnel()), None, LONG).expect("tunnel needs nothing of ufw");
}

#[test]
fn an_ufw_that_does_not_take_an_allow_ends_the_trial_before_it_began() {
    let world = ufw_world("");
    let bench = Bench::new().with_ufw(&world);
    std::fs::write(world.dir.path().join("deaf"), "").unwrap();
    assert!(matches!(bench.core.begin(&wish(port()), None, LONG), Err(Error::Ufw(_))));
    assert_eq!((bench.kernel.has(), bench.armed(), bench.core.files().pending().unwrap()), (None, 0, None));
    assert!(!bench.core.files().journal_path().exists());
}

#[test]
fn without_a_usable_nft_an_active_ufw_keeps_daemon_port_and_nothing_keeps_tunnel() {
    partial(Arc::new(WithoutNft));
    for why in [|| nft::Error::NotPermitted, || nft::Error::NoJson, || nft::Error::NoNfTables] {
        partial(Arc::new(Unusable(why)));
        let dir = tempfile::tempdir().unwrap();
        let core =
            Transactions::new(Arc::new(Unusable(why)), Arc::new(FakeWatchdog::default()), Files::below(dir.path()));
        assert!(matches!(core.look(), Ok((crate::firewall::Found::Absent, _))), "`open` holds without ufw, too");
    }
}

fn partial(kernel: Arc<dyn Kernel>) {
    let (world, dir) = (ufw_world(""), tempfile::tempdir().unwrap());
    let core = Transactions::new(kernel, Arc::new(FakeWatchdog::default()), Files::below(dir.path()))
        .with_ufw(Some(world.ufw.clone()));
    let mode = |core: &Transactions| match core.look() {
        Ok((crate::firewall::Found::Confirmed { mode, .. }, _)) => Some(mode),
        Ok(_) | Err(_) => None,
    };
    assert!(matches!(core.begin(&wish(tunnel()), None, LONG), Err(Error::Check(error)) if error.is_unusable()));
    let tx = core.begin(&wish(port()), None, LONG).unwrap().tx;
    core.confirm(&tx).unwrap();
    assert_eq!((world.rules().as_str(), mode(&core)), (OURS, Some(Mode::DaemonPort)));
    std::fs::write(world.dir.path().join("status"), "Status: inactive\n").unwrap();
    assert!(core.look().is_err(), "who relied on ufw is told that it is off");
    std::fs::write(world.dir.path().join("status"), "Status: active\n").unwrap();
    core.begin(&wish(Policy::open()), None, LONG).unwrap();
    core.confirm(&core.files().pending().unwrap().unwrap().tx).unwrap();
    assert_eq!((world.rules().as_str(), mode(&core)), ("", None));
    std::fs::write(world.dir.path().join("status"), "Status: inactive\n").unwrap();
    assert!(matches!(core.begin(&wish(port()), None, LONG), Err(Error::Check(error)) if error.is_unusable()));
}

/// Every point at which a process may die, then the watchdog at the deadline, or a restart of the machine.
#[test]
fn whoever_dies_when_the_rules_end_up_whole() {
    let begin = [Point::PendingWritten, Point::WatchdogArmed, Point::UfwAllowed, Point::TrialApplied];
    let confirm = [Point::ConfirmedApplied, Point::ActiveWritten, Point::UfwSettled, Point::PendingRemoved];
    let revert = [Point::RevertApplied, Point::UfwSettled, Point::PendingRemoved];
    for restart in [false, true] {
        for (points, act) in [(&begin[..], Act::Begin), (&confirm[..], Act::Confirm), (&revert[..], Act::Revert)] {
            for point in points {
                for (from, to) in [(port(), tunnel()), (tunnel(), port())] {
                    dies(&from, &to, act, *point, restart);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Begin,
    Confirm,
    Revert,
}

fn dies(from: &Policy, to: &Policy, act: Act, point: Point, restart: bool) {
    let world = ufw_world("");
    let bench = Bench::new().with_ufw(&world);
    let tx = bench.core.begin(&wish(from.clone()), None, LONG).unwrap().tx;
    bench.core.confirm(&tx).unwrap();
    let begin = |core: &Transactions| core.begin(&wish(to.clone()), None, LONG).unwrap().tx;
    match act {
        Act::Begin => bench.dies_at(point, |core| drop(begin(core))),
        Act::Confirm => {
            let tx = begin(&bench.core);
            bench.dies_at(point, |core| drop(core.confirm(&tx)));
        }
        Act::Revert => {
            let tx = begin(&bench.core);
            bench.dies_at(point, |core| drop(core.revert(Some(&tx))));
        }
    }
    let here = format!("{point:?} of {act:?}, to {}, restart {restart}", to.mode);
    if restart {
        *bench.kernel.has.lock().unwrap() = None;
        assert!(matches!(load(&bench.core), Ok(Loaded::Confirmed(_))), "{here}");
    } else if let Some(pending) = bench.core.files().pending().unwrap() {
        bench.core.revert(Some(&pending.tx)).unwrap();
    }
    let counted = act == Act::Confirm && point != Point::ConfirmedApplied;
    let policy = if counted { to } else { from };
    assert!(bench.has_rules_of(policy), "{here}: {:?}", bench.kernel.has());
    assert_eq!(bench.core.policy().unwrap(), *policy, "{here}");
    assert_eq!(bench.core.files().pending().unwrap(), None, "{here}");
    let allows = if policy.mode == Mode::DaemonPort { OURS } else { "" };
    assert_eq!(world.rules(), allows, "{here}");
    assert_eq!(bench.core.files().journal_path().exists(), !allows.is_empty(), "{here}");
}

#[test]
fn boot_loads_what_was_confirmed_or_the_nearest_that_goes() {
    assert_eq!(load(&Bench::new().core).unwrap(), Loaded::Nothing);
    for (refused, loaded) in [
        (0, Loaded::Confirmed(Mode::DaemonPort)),
        (1, Loaded::Minimal(Mode::DaemonPort)),
        (2, Loaded::Minimal(Mode::DaemonPort)),
    ] {
        let bench = Bench::closed();
        *bench.kernel.has.lock().unwrap() = None;
        *bench.kernel.refused.lock().unwrap() = refused;
        assert_eq!(load(&bench.core).unwrap(), loaded);
        assert!(bench.kernel.has().is_some());
    }
    let bench = Bench::closed();
    *bench.kernel.has.lock().unwrap() = None;
    *bench.kernel.refused.lock().unwrap() = 3;
    assert!(matches!(load(&bench.core), Err(Error::Apply(_))));
}

#[test]
fn what_cannot_be_read_opens_nothing() {
    let bench = Bench::closed();
    let path = bench.core.files().state_dir().join("firewall/active.json");
    for text in ["", "{", r#"{"format": 9}"#] {
        std::fs::write(&path, text).unwrap();
        let before = bench.kernel.has();
        assert!(matches!(bench.core.reapply(), Err(Error::Files(_))));
        assert_eq!(load(&bench.core).unwrap(), Loaded::ShutButSsh);
        assert_eq!(bench.kernel.has(), before, "a host that runs keeps what it has");
        *bench.kernel.has.lock().unwrap() = None;
        assert_eq!(load(&bench.core).unwrap(), Loaded::ShutButSsh);
        let nobody = Policy { mode: Mode::DaemonPort, ..Policy::open() };
        let nobody = ruleset::confirmed(&nobody, &Facts { ssh_ports: [22].into(), ..Facts::default() }).text();
        let has = bench.kernel.has().expect("something is shut");
        assert!(has != nobody && has.len() > nobody.len() / 2, "SSH passes, its own doors hold: {has}");
        *bench.kernel.has.lock().unwrap() = before;
    }
}

#[test]
fn ssh_is_let_in_for_a_while_and_not_in_open() {
    let network = || vec!["198.51.100.20/32".parse().unwrap()];
    assert!(matches!(Bench::new().core.open_ssh(network(), LONG), Err(Error::NothingShut)));
    let bench = Bench::closed();
    bench.core.open_ssh(network(), LONG).unwrap();
    let now = Moment::now();
    let glass = bench.core.facts(&now).unwrap().break_glass.unwrap();
    assert!(glass.left <= LONG && glass.left > LONG / 2);
    let stored = serde_json::to_string(&bench.core.files().active().unwrap().unwrap().nft).unwrap();
    assert!(!stored.contains("198.51.100.20"), "a restart ends it");
    assert_eq!(bench.core.facts(&Moment { boot_id: "another".into(), ..now }).unwrap().break_glass, None);
    bench.core.open_ssh(network(), Duration::ZERO).unwrap();
    assert_eq!(bench.core.facts(&Moment::now()).unwrap().break_glass, None);
}

/// Boot and watchdog run these: none may need a runtime or start a thread.
#[test]
fn the_plain_half_names_no_runtime() {
    for (name, text) in [
        ("files", include_str!("files.rs")),
        ("kernel", include_str!("kernel.rs")),
        ("load", include_str!("load.rs")),
        ("allows", include_str!("allows.rs")),
        ("remove", include_str!("remove.rs")),
        ("surroundings", include_str!("surroundings.rs")),
        ("transaction", include_str!("transaction.rs")),
        ("watchdog", include_str!("watchdog.rs")),
        ("selftest", include_str!("selftest.rs")),
        ("firewall_cli", include_str!("../firewall_cli.rs")),
    ] {
        for word in ["tokio::", "lifecycle::", "store::", "async fn", "thread::spawn"] {
            assert!(!text.contains(word), "{name}.rs names {word}");
        }
    }
}

#[test]
fn ssh_that_was_refused_is_not_let_in_by_a_later_change_of_rules() {
    let bench = Bench::closed();
    let network = || vec!["203.0.113.0/24".parse().unwrap()];
    let pending = bench.core.begin(&wish(tunnel()), None, LONG).unwrap();
    assert!(matches!(bench.core.open_ssh(network(), LONG), Err(Error::TrialRuns { .. })));
    bench.core.confirm(&pending.tx).unwrap();
    assert_eq!(bench.core.files().opened().unwrap(), None);
    assert!(bench.has_rules_of(&tunnel()), "{:?}", bench.kernel.has());

    bench.core.open_ssh(network(), LONG).unwrap();
    let opened = bench.core.files().opened().unwrap();
    assert!(opened.is_some());
    *bench.kernel.refused.lock().unwrap() = 1;
    let other = vec!["198.51.100.0/24".parse().unwrap()];
    assert!(matches!(bench.core.open_ssh(other, LONG), Err(Error::Apply(_))));
    assert_eq!(bench.core.files().opened().unwrap(), opened, "what was let in before stays recorded");
}

/// Of each file what no agentd of this version wrote.
const ILLEGIBLE: [&str; 4] = ["", "{", "[1, 2]", r#"{"format": 9}"#];

#[test]
fn a_record_that_cannot_be_read_is_written_anew_by_the_next_order() {
    for text in ILLEGIBLE {
        let bench = Bench::closed();
        let path = bench.core.files().state_dir().join("firewall/active.json");
        std::fs::write(&path, text).unwrap();
        assert!(!bench.core.is_known());
        let pending = bench.core.begin(&wish(tunnel()), None, LONG).unwrap();
        bench.core.revert(Some(&pending.tx)).unwrap();
        assert!(bench.has_rules_of(&Policy::shut_but_ssh()), "SSH passes: {:?}", bench.kernel.has());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nobody confirmed anything");
        let pending = bench.core.begin(&wish(port()), None, LONG).unwrap();
        bench.core.confirm(&pending.tx).unwrap();
        assert!(bench.core.is_known() && bench.has_rules_of(&port()));
        assert_eq!(bench.core.policy().unwrap(), port());
    }
    let bench = Bench::closed();
    let path = bench.core.files().state_dir().join("firewall/active.json");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(bench.core.begin(&wish(tunnel()), None, LONG), Err(Error::Files(_))), "no disk, no order");
    assert!(bench.has_rules_of(&port()));
}

#[test]
fn a_trial_that_cannot_be_read_is_over() {
    type Out = fn(&Bench, &str);
    let outs: [Out; 5] = [
        |bench, _| assert_eq!(bench.core.revert(None).unwrap(), Reverted::Done),
        |bench, _| assert!(bench.core.end_illegible_trial().unwrap()),
        |bench, tx| watchdog::guard(&bench.core, tx).unwrap(),
        |bench, _| assert_eq!(load(&bench.core).unwrap(), Loaded::Confirmed(Mode::DaemonPort)),
        |bench, _| {
            let pending = bench.core.begin(&wish(tunnel()), None, LONG).unwrap();
            bench.core.revert(Some(&pending.tx)).unwrap();
        },
    ];
    for (text, out) in ILLEGIBLE.iter().flat_map(|text| outs.map(|out| (text, out))) {
        let bench = Bench::closed();
        let pending = bench.core.begin(&wish(tunnel()), None, LONG).unwrap();
        std::fs::write(bench.core.files().state_dir().join("firewall/pending.json"), text).unwrap();
        assert!(matches!(bench.core.confirm(&pending.tx), Err(Error::Files(_))), "nobody knows what it was");
        out(&bench, &pending.tx);
        assert!(bench.has_rules_of(&port()), "{:?}", bench.kernel.has());
        assert_eq!(bench.core.files().pending().unwrap(), None);
    }
    let bench = Bench::closed();
    bench.core.begin(&wish(tunnel()), None, LONG).unwrap();
    assert!(!bench.core.end_illegible_trial().unwrap(), "one that can be read runs");
    assert!(matches!(bench.core.begin(&wish(tunnel()), None, LONG), Err(Error::TrialRuns { .. })));
}

#[test]
fn a_load_on_a_host_that_runs_keeps_ssh_let_in_for_a_while_and_one_at_boot_does_not() {
    let bench = Bench::closed();
    bench.core.open_ssh(vec!["203.0.113.0/24".parse().unwrap()], LONG).unwrap();
    let lets_in = || bench.kernel.has().unwrap().contains("203.0.113.0");
    assert!(lets_in());
    assert_eq!(load(&bench.core).unwrap(), Loaded::Confirmed(Mode::DaemonPort));
    assert!(lets_in() && bench.core.files().opened().unwrap().is_some());

    let opened = bench.core.files().opened().unwrap().unwrap();
    bench.core.files().write_opened(&OpenedSsh { boot_id: "another".into(), ..opened }).unwrap();
    *bench.kernel.has.lock().unwrap() = None;
    assert_eq!(load(&bench.core).unwrap(), Loaded::Confirmed(Mode::DaemonPort));
    assert!(!lets_in() && bench.core.files().opened().unwrap().is_none());
}

#[test]
fn an_ssh_server_that_is_away_comes_back_where_it_was() {
    let anyone = Policy { ssh: vec!["0.0.0.0/0".parse().unwrap()], ..port() };
    let bench = Bench::new();
    let pending = bench.core.begin(&wish(anyone.clone()), None, LONG).unwrap();
    *bench.kernel.is_ssh_away.lock().unwrap() = true;
    let active = bench.core.confirm(&pending.tx).unwrap();
    let wanted = || bench.core.wanted(&Moment::now()).unwrap().revision.0;
    assert_eq!(wanted(), active.revision, "away between trial and confirmation");
    let of_2222 = ruleset::confirmed(&anyone, &Facts { ssh_ports: [2222].into(), ..Facts::default() });
    assert_eq!(bench.core.reapply().unwrap().revision, of_2222.revision);
    assert_eq!(bench.core.files().active().unwrap().unwrap().revision, active.revision, "nor what boot loads");

    let boots = |refused| {
        *bench.kernel.has.lock().unwrap() = None;
        *bench.kernel.refused.lock().unwrap() = refused;
        (load(&bench.core).unwrap(), bench.kernel.has().unwrap())
    };
    for (refused, loaded) in [(0, Loaded::Confirmed(Mode::DaemonPort)), (1, Loaded::Minimal(Mode::DaemonPort))] {
        let (how, has) = boots(refused);
        assert!(how == loaded && has == of_2222.text(), "{how:?}");
    }
    let dir = bench.core.files().state_dir().join("firewall");
    std::fs::write(dir.join("active.json"), "{").unwrap();
    let shut = |port: u16| {
        let anyone = ["0.0.0.0/0", "::/0"].map(|network| network.parse().unwrap()).to_vec();
        let policy = Policy { mode: Mode::DaemonPort, ssh: anyone, ..Policy::open() };
        ruleset::confirmed(&policy, &Facts { ssh_ports: [port].into(), ..Facts::default() }).text()
    };
    assert!(boots(0) == (Loaded::ShutButSsh, shut(2222)));
    std::fs::write(dir.join("ssh-ports.json"), "{").unwrap();
    assert!(boots(0) == (Loaded::ShutButSsh, shut(22)), "22 where nobody can tell");
}

#[test]
fn a_trial_that_is_in_force_but_cannot_be_read_back_is_undone() {
    let bench = Bench::closed();
    *bench.kernel.is_unread.lock().unwrap() = true;
    assert!(matches!(bench.core.begin(&wish(tunnel()), None, LONG), Err(Error::Apply(nft::Error::NotAsWritten))));
    assert!(bench.has_rules_of(&port()), "what was said not to be applied is not in force");
    assert_eq!((bench.core.files().pending().unwrap(), bench.armed()), (None, 0));
    bench.core.begin(&wish(tunnel()), None, LONG).expect("nothing is left of it");
}
