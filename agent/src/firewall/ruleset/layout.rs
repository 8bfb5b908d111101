//! The table: its sets, counters and chains, and the order in which one transaction touches them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nftables::batch::Batch;
use nftables::expr::{Expression, Range};
use nftables::schema::{
    Chain, Counter, Element, FlushObject, NfCmd, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue,
    Table,
};
use nftables::types::{NfChainType, NfFamily, NfHook};

use super::Stamp;
use super::rules::{Names, Rules, Side, branch, shared};
use super::words::{Expr, address, concat, network, number, text, timed};
use crate::firewall::Facts;
use crate::firewall::facts::{BreakGlass, Session};

pub(crate) const TABLE: &str = "agentd";
/// Before everybody's filters (0) and firewalld's (10), after connection tracking (-200) and DNAT (-100).
pub(crate) const PRIORITY: i32 = -10;

pub(crate) const DROPPED_IN: &str = "dropped_in";
pub(crate) const DROPPED_FORWARD: &str = "dropped_forward";

pub(super) const ICMP_IN: &str = "icmp_in";
pub(super) const GUEST_IN: &str = "guest_in";
pub(super) const SURVIVORS_IN: &str = "survivors_in";

// As rules name a set.
pub(super) const ARMED: &str = "@armed";
pub(super) const GLASS4: &str = "@glass4";
pub(super) const GLASS6: &str = "@glass6";
pub(super) const SURVIVORS4: &str = "@survivors4";
pub(super) const SURVIVORS6: &str = "@survivors6";

/// As the kernel names them: sets whose elements come and go by themselves.
pub(crate) const TIMED_SETS: &[&str] = &["armed", "glass4", "glass6", "survivors4", "survivors6"];
/// One element: what the table looked like when it was right (`inspect`).
pub(crate) const SEAL: &str = "seal";

/// Longest life of an element nobody gave a time.
const ELEMENT: Duration = Duration::from_secs(3600);
/// How long a connection that nobody tracked yet is known by both its ends alone (P7).
const SURVIVAL: Duration = Duration::from_secs(3600);

/// One transaction. Objects are made where missing; nothing a rule of the old mode needs is deleted before it.
#[derive(Debug)]
pub(super) struct Transaction(Batch<'static>);

impl Transaction {
    pub(super) fn begin(side: Side) -> Self {
        let mut batch = Batch::new();
        batch.add(NfListObject::Table(table()));
        for name in [DROPPED_IN, DROPPED_FORWARD] {
            let counter =
                Counter { family: NfFamily::INet, table: TABLE.into(), name: name.into(), ..Counter::default() };
            batch.add(NfListObject::Counter(counter));
        }
        for set in lasting_sets() {
            batch.add(NfListObject::Set(Box::new(set)));
        }
        for (name, hook) in [(Names::BASE.input, NfHook::Input), (Names::BASE.forward, NfHook::Forward)] {
            batch.add(NfListObject::Chain(Chain {
                _type: Some(NfChainType::Filter),
                hook: Some(hook),
                prio: Some(PRIORITY),
                policy: Some(side.0),
                ..chain(name)
            }));
        }
        for name in [ICMP_IN, GUEST_IN, SURVIVORS_IN, Names::BASE.ping] {
            batch.add(NfListObject::Chain(chain(name)));
        }
        Self(batch)
    }

    /// What a trial needs. What ends one makes it too: only what is there can be deleted.
    pub(super) fn start_trial(&mut self) {
        self.0.add(NfListObject::Set(Box::new(armed())));
        for name in trial_chains() {
            self.0.add(NfListObject::Chain(chain(name)));
        }
    }

    /// After `empty`: no rule leads there any more.
    pub(super) fn end_trial(&mut self) {
        for name in trial_chains() {
            self.0.delete(NfListObject::Chain(chain(name)));
        }
        self.0.delete(NfListObject::Set(Box::new(armed())));
    }

    pub(super) fn empty(&mut self) {
        // Rules alone; sets keep their elements.
        self.0.add_cmd(NfCmd::Flush(FlushObject::Table(table())));
        // What was let in by break-glass stays, with the kernel's own clock.
        for set in lasting_sets().into_iter().filter(|set| !set.name.starts_with("glass")) {
            self.flush(set);
        }
    }

    fn flush(&mut self, set: Set<'static>) {
        self.0.add_cmd(NfCmd::Flush(FlushObject::Set(Box::new(set))));
    }

    pub(super) fn arm(&mut self, window: Duration) {
        self.flush(armed());
        // Every protocol a packet can name.
        let all = Expression::Range(Box::new(Range { range: [number(0_u8), number(255_u8)] }));
        self.fill("armed", vec![timed(all, seconds(window))]);
    }

    pub(super) fn remember(&mut self, facts: &Facts) {
        let (v4, v6): (Vec<Session>, Vec<Session>) =
            facts.survivors.iter().partition(|session| session.peer.is_ipv4() && session.local.is_ipv4());
        let v6 = v6.into_iter().filter(|session| session.peer.is_ipv6() && session.local.is_ipv6());
        self.fill("survivors4", v4.iter().map(survivor).collect());
        self.fill("survivors6", v6.map(|session| survivor(&session)).collect());
        if let Some(glass) = &facts.break_glass {
            self.open_ssh(glass);
        }
    }

    fn open_ssh(&mut self, glass: &BreakGlass) {
        for set in glass_sets() {
            self.flush(set);
        }
        let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
            IpNet::aggregate(&glass.ssh).into_iter().partition(|network| network.addr().is_ipv4());
        for (name, networks) in [("glass4", v4), ("glass6", v6)] {
            let halves = networks.iter().flat_map(halved);
            self.fill(name, halves.map(|half| timed(network(&half), seconds(glass.left))).collect());
        }
    }

    fn fill(&mut self, name: &'static str, elements: Vec<Expr>) {
        if !elements.is_empty() {
            let element =
                Element { family: NfFamily::INet, table: TABLE.into(), name: name.into(), elem: elements.into() };
            self.0.add(NfListObject::Element(element));
        }
    }

    pub(super) fn branch(&mut self, trial: &Stamp) {
        for (from, to) in [(Names::BASE.input, Names::TRIAL.input), (Names::BASE.forward, Names::TRIAL.forward)] {
            self.write_lines(from, vec![branch(to, trial)]);
        }
    }

    pub(super) fn write(&mut self, rules: Rules) {
        for (chain, lines) in rules.chains {
            self.write_lines(chain, lines);
        }
    }

    pub(super) fn write_shared(&mut self) {
        for (chain, lines) in shared() {
            self.write_lines(chain, lines);
        }
    }

    fn write_lines(&mut self, chain: &'static str, lines: Vec<super::rules::Line>) {
        for line in lines {
            self.0.add(NfListObject::Rule(Rule {
                family: NfFamily::INet,
                table: TABLE.into(),
                chain: chain.into(),
                expr: line.acts.into(),
                handle: None,
                index: None,
                comment: Some(line.comment.into()),
            }));
        }
    }

    pub(super) fn commit(self) -> Nftables<'static> {
        self.0.to_nftables()
    }
}

pub(super) fn removal() -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    batch.to_nftables()
}

pub(super) fn glass(glass: &BreakGlass) -> Nftables<'static> {
    let mut transaction = Transaction(Batch::new());
    transaction.open_ssh(glass);
    transaction.commit()
}

/// The one element that says what the kernel had when all was right.
pub(crate) fn seal(value: IpAddr) -> Nftables<'static> {
    let mut transaction = Transaction(Batch::new());
    transaction.flush(set(SEAL, SetTypeValue::Single(SetType::Ipv6Addr), &[]));
    transaction.fill(SEAL, vec![address(value)]);
    transaction.commit()
}

fn table() -> Table<'static> {
    Table { family: NfFamily::INet, name: TABLE.into(), handle: None }
}

fn chain(name: &'static str) -> Chain<'static> {
    Chain { family: NfFamily::INet, table: TABLE.into(), name: name.into(), ..Chain::default() }
}

fn trial_chains() -> [&'static str; 3] {
    [Names::TRIAL.input, Names::TRIAL.forward, Names::TRIAL.ping]
}

fn lasting_sets() -> Vec<Set<'static>> {
    const CONNECTION4: &[SetType] = &[SetType::Ipv4Addr, SetType::InetService, SetType::Ipv4Addr, SetType::InetService];
    const CONNECTION6: &[SetType] = &[SetType::Ipv6Addr, SetType::InetService, SetType::Ipv6Addr, SetType::InetService];
    let mut sets = vec![
        set("survivors4", SetTypeValue::Concatenated(CONNECTION4.into()), &[SetFlag::Timeout]),
        set("survivors6", SetTypeValue::Concatenated(CONNECTION6.into()), &[SetFlag::Timeout]),
        set(SEAL, SetTypeValue::Single(SetType::Ipv6Addr), &[]),
    ];
    sets.extend(glass_sets());
    sets
}

fn glass_sets() -> [Set<'static>; 2] {
    let networks = |name, kind| set(name, SetTypeValue::Single(kind), &[SetFlag::Interval, SetFlag::Timeout]);
    [networks("glass4", SetType::Ipv4Addr), networks("glass6", SetType::Ipv6Addr)]
}

fn armed() -> Set<'static> {
    set("armed", SetTypeValue::Single(SetType::InetProto), &[SetFlag::Interval, SetFlag::Timeout])
}

fn set(name: &'static str, set_type: SetTypeValue<'static>, flags: &[SetFlag]) -> Set<'static> {
    let flags: HashSet<SetFlag> = flags.iter().copied().collect();
    // An element added by hand must not stay for ever.
    let timeout = flags.contains(&SetFlag::Timeout).then(|| seconds(ELEMENT));
    Set {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        set_type,
        flags: (!flags.is_empty()).then_some(flags),
        timeout,
        ..Set::default()
    }
}

fn survivor(session: &Session) -> Expr {
    let end = |end: std::net::SocketAddr| [text(end.ip().to_string()), number(end.port())];
    let tuple = [end(session.peer), end(session.local)].concat();
    timed(concat(tuple), seconds(SURVIVAL))
}

/// nft takes no network of length 0 for an element.
fn halved(network: &IpNet) -> Vec<IpNet> {
    if network.prefix_len() > 0 {
        return vec![*network];
    }
    network.subnets(1).expect("0 is shorter than 1").collect()
}

/// nft counts in whole seconds, and 0 would be for ever.
fn seconds(time: Duration) -> u32 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(whole.max(1)).unwrap_or(u32::MAX)
}
