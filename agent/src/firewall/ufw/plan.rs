//! What we want UFW to let in, beside what it has: purely.
//!
//! UFW keys a rule without its action and comment. A plain `ufw allow` of a key that the owner already uses would graft
//! our comment on their allow, or replace their deny, and our later delete would take their rule away. So a key in use is
//! never written to.

use std::collections::BTreeSet;
use std::fmt;

use agentd_protocol::security::Mode;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::super::{Facts, Policy};
use super::tuples::{Action, Direction, Tuple};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    Proxy,
    Ssh,
}

impl Purpose {
    /// Marks a rule as ours, for the owner and for us.
    pub fn comment(self) -> &'static str {
        match self {
            Self::Proxy => "agentd:proxy",
            Self::Ssh => "agentd:ssh",
        }
    }
}

/// TCP from one network to one port of this host; one address family, one rule of UFW.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allow {
    pub purpose: Purpose,
    pub from: IpNet,
    pub port: u16,
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TCP port {} from {}", self.port, self.from)
    }
}

impl Allow {
    /// To be typed by whoever wants it.
    pub fn order(self) -> String {
        format!("ufw {}", rule(self).join(" "))
    }
}

/// What `daemon-port` lets in (A1, A2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    pub proxy: BTreeSet<u16>,
    pub ssh_ports: BTreeSet<u16>,
    pub ssh: BTreeSet<IpNet>,
}

/// Whether UFW manages IPv6 (`IPV6=` of /etc/default/ufw).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    V4,
    Both,
}

/// Where in the owner's order ours goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the owner's: what they deny of it stays denied.
    Last,
    /// In front, as a deny of theirs would swallow all of it.
    First,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Add(Allow, Place),
    /// It is there with our comment.
    Ours(Allow),
    /// The owner lets it in already; nothing is done, nor undone.
    PreExisting(Allow),
    /// The owner decided otherwise about exactly this.
    Conflict(Allow, Action),
}

impl Wanted {
    /// For a policy of `daemon-port`; for any other nothing.
    pub fn by(policy: &Policy, facts: &Facts) -> Self {
        match policy.mode {
            Mode::Open | Mode::Tunnel => Self::default(),
            Mode::DaemonPort => Self {
                proxy: policy.proxy_tcp.clone(),
                ssh_ports: facts.ssh_ports.clone(),
                ssh: policy.ssh_networks().into_iter().collect(),
            },
        }
    }

    /// What either wants.
    pub fn and(mut self, other: Self) -> Self {
        self.proxy.extend(other.proxy);
        self.ssh_ports.extend(other.ssh_ports);
        self.ssh.extend(other.ssh);
        self
    }

    pub(super) fn allows(&self, families: Families) -> BTreeSet<Allow> {
        let anywhere = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let proxy = self
            .proxy
            .iter()
            .flat_map(|&port| anywhere.into_iter().map(move |from| Allow { purpose: Purpose::Proxy, from, port }));
        let ssh = self.ssh_ports.iter().flat_map(|&port| {
            self.ssh.iter().map(move |from| Allow { purpose: Purpose::Ssh, from: from.trunc(), port })
        });
        let all = proxy.chain(ssh);
        all.filter(|allow| families == Families::Both || matches!(allow.from, IpNet::V4(_))).collect()
    }
}

/// One step for each allow. `existing` are the tuples of both files, in their order.
pub(super) fn plan(wanted: &BTreeSet<Allow>, existing: &[Tuple]) -> Vec<Step> {
    wanted.iter().map(|&allow| step(allow, existing)).collect()
}

fn step(allow: Allow, existing: &[Tuple]) -> Step {
    match existing.iter().find(|tuple| same_key(tuple, allow)) {
        None if existing.iter().any(|tuple| swallows(tuple, allow)) => Step::Add(allow, Place::First),
        None => Step::Add(allow, Place::Last),
        Some(tuple) => match tuple.action {
            Action::Allow if is_ours(tuple, allow) => Step::Ours(allow),
            Action::Allow => Step::PreExisting(allow),
            action @ (Action::Deny | Action::Reject | Action::Limit) => Step::Conflict(allow, action),
        },
    }
}

/// Whether UFW would take our rule for this one.
pub(super) fn same_key(tuple: &Tuple, allow: Allow) -> bool {
    concerns_input(tuple)
        && tuple.protocol == "tcp"
        && tuple.to_port == allow.port.to_string()
        && tuple.from.trunc() == allow.from
        && tuple.interfaces.is_none()
        && tuple.applications.is_none()
}

pub(super) fn is_ours(tuple: &Tuple, allow: Allow) -> bool {
    same_key(tuple, allow)
        && tuple.action == Action::Allow
        && tuple.log.is_none()
        && tuple.comment.as_deref() == Some(allow.purpose.comment())
}

/// From any port to any address, coming in.
fn concerns_input(tuple: &Tuple) -> bool {
    tuple.direction == Direction::In && tuple.to.prefix_len() == 0 && tuple.from_port == "any"
}

/// Whether nothing of what we want would be left behind it.
fn swallows(tuple: &Tuple, allow: Allow) -> bool {
    matches!(tuple.action, Action::Deny | Action::Reject)
        && concerns_input(tuple)
        && matches!(tuple.protocol.as_str(), "tcp" | "any")
        && names_port(&tuple.to_port, allow.port)
        && tuple.from.contains(&allow.from)
}

/// `any`, or a list of ports and ranges. What is not understood counts: then we stand in front.
fn names_port(ports: &str, port: u16) -> bool {
    ports.split(',').any(|part| match part.split_once(':') {
        Some((low, high)) => match (low.parse::<u16>(), high.parse::<u16>()) {
            (Ok(low), Ok(high)) => (low..=high).contains(&port),
            _ => true,
        },
        None => part.parse::<u16>().map_or(true, |named| named == port),
    })
}

/// The order for UFW. Always one family and the long form, so that the inverse names the same rule and no other.
pub(super) fn arguments(allow: Allow, place: Place) -> Vec<String> {
    let mut words = match place {
        Place::First => vec!["prepend".to_owned()],
        Place::Last => Vec::new(),
    };
    words.extend(rule(allow));
    words.extend(["comment".to_owned(), allow.purpose.comment().to_owned()]);
    words
}

pub(super) fn inverse(allow: Allow) -> Vec<String> {
    std::iter::once("delete".to_owned()).chain(rule(allow)).collect()
}

fn rule(allow: Allow) -> Vec<String> {
    format!("allow proto tcp from {} to any port {}", allow.from, allow.port).split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tuples::parse;
    use super::*;

    fn proxy() -> Allow {
        Allow { purpose: Purpose::Proxy, from: "0.0.0.0/0".parse().unwrap(), port: 8443 }
    }

    fn one(line: &str) -> Step {
        let tuples = parse(&format!("### tuple ### {line}"));
        assert_eq!(tuples.len(), 1, "{line}");
        plan(&BTreeSet::from([proxy()]), &tuples).remove(0)
    }

    #[test]
    fn a_key_in_use_is_never_written_to() {
        assert_eq!(one("allow tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in comment=6d"), Step::PreExisting(proxy()));
        assert_eq!(one("allow_log tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in"), Step::PreExisting(proxy()));
        assert_eq!(one("deny tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in"), Step::Conflict(proxy(), Action::Deny));
        assert_eq!(one("limit tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in"), Step::Conflict(proxy(), Action::Limit));
        assert_eq!(one("reject tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in"), Step::Conflict(proxy(), Action::Reject));
        let ours = "allow tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in comment=6167656e74643a70726f7879";
        assert_eq!(one(ours), Step::Ours(proxy()));
    }

    #[test]
    fn ours_goes_in_front_of_a_deny_that_would_swallow_it_and_behind_any_other() {
        for wide in ["deny any any 0.0.0.0/0 any 0.0.0.0/0 in", "reject tcp 8000:9000 0.0.0.0/0 any 0.0.0.0/0 in"] {
            assert_eq!(one(wide), Step::Add(proxy(), Place::First), "{wide}");
        }
        for other in [
            "deny any any 0.0.0.0/0 any 1.2.3.4 in",
            "deny udp 8443 0.0.0.0/0 any 0.0.0.0/0 in",
            "deny tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 in",
            "deny tcp 8443 0.0.0.0/0 any 0.0.0.0/0 out",
            "route:deny any any 0.0.0.0/0 any 0.0.0.0/0 in",
            "deny tcp 8443 ::/0 any ::/0 in",
        ] {
            assert_eq!(one(other), Step::Add(proxy(), Place::Last), "{other}");
        }
    }

    #[test]
    fn only_daemon_port_wants_anything() {
        let ssh = vec!["203.0.113.0/24".parse().unwrap()];
        let policy = |mode| Policy { mode, proxy_tcp: [8443].into(), ssh: ssh.clone(), ..Policy::open() };
        let facts = Facts { ssh_ports: [22].into(), ..Facts::default() };
        assert_eq!(Wanted::by(&policy(Mode::DaemonPort), &facts).allows(Families::Both).len(), 3);
        for mode in [Mode::Open, Mode::Tunnel] {
            assert_eq!(Wanted::by(&policy(mode), &facts), Wanted::default());
        }
    }

    #[test]
    fn one_rule_for_each_family_and_orders_that_undo_each_other() {
        let wanted = Wanted {
            proxy: [8443].into(),
            ssh_ports: [22].into(),
            ssh: ["203.0.113.7/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()].into(),
        };
        assert_eq!(wanted.allows(Families::Both).len(), 4);
        assert_eq!(wanted.allows(Families::V4).len(), 2);
        let ssh = Allow { purpose: Purpose::Ssh, from: "203.0.113.0/24".parse().unwrap(), port: 22 };
        assert!(wanted.allows(Families::V4).contains(&ssh));
        assert_eq!(
            arguments(ssh, Place::First).join(" "),
            "prepend allow proto tcp from 203.0.113.0/24 to any port 22 comment agentd:ssh"
        );
        assert_eq!(inverse(ssh).join(" "), "delete allow proto tcp from 203.0.113.0/24 to any port 22");
    }

    proptest! {
        /// Whatever the owner wrote: we add only what no rule of theirs is keyed by.
        #[test]
        fn nothing_of_the_owner_is_overwritten(
            action in "allow|deny|reject|limit|allow_log", port in "8443|22|any|8000:9000|80,8443",
            protocol in "tcp|udp|any", from in "0.0.0.0/0|10.0.0.0/8|::/0", way in "in|out|in_eth0",
        ) {
            let to = if from.contains(':') { "::/0" } else { "0.0.0.0/0" };
            let tuples = parse(&format!("### tuple ### {action} {protocol} {port} {to} any {from} {way}"));
            let taken = protocol == "tcp" && port == "8443" && from == "0.0.0.0/0" && way == "in";
            let step = plan(&BTreeSet::from([proxy()]), &tuples).remove(0);
            prop_assert_eq!(matches!(step, Step::Add(..)), !taken, "{:?}", step);
        }
    }
}
