//! What the document asks for against what is in force and what the host's owner lets a document do (pure).

use std::collections::BTreeSet;

use agentd_protocol::api::{Awaiting, Origin};
use agentd_protocol::security::{Mode, Security};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Policy;
use super::consent::Objections;
use super::files::Active;
use super::transaction::Wish;

/// How far a document may go by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentMay {
    Nothing,
    /// Only more closed than the host is.
    #[default]
    Harden,
    Anything,
}

/// The part of policy.toml that is about what is let in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnerRules {
    pub document: DocumentMay,
    /// `false`: a document that asks for a more open mode is refused as a whole, in the place of waiting for a person.
    pub allow_weaken: Option<bool>,
    pub ssh: Vec<IpNet>,
    #[serde(deserialize_with = "interfaces")]
    pub ssh_interfaces: BTreeSet<String>,
    #[serde(deserialize_with = "interfaces")]
    pub trusted_interfaces: BTreeSet<String>,
}

/// IFNAMSIZ without its zero (netdevice(7)).
const INTERFACE_BYTES_MAX: usize = 15;

/// Names as the kernel takes them, and none that nft would read as more than one name (`*`), a set (`@`), a variable
/// (`$`) or the end of a name (quotes): an owner who meant one interface must not trust many. On loopback everything
/// passes (P1): who names it meant another one.
fn interfaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let names = BTreeSet::<String>::deserialize(deserializer)?;
    match names.iter().find(|name| !is_interface(name)) {
        None => Ok(names),
        Some(bad) => Err(D::Error::custom(format!(
            "`{bad}` is no interface that leads outside: a name has 1 to {INTERFACE_BYTES_MAX} bytes without spaces, quotes, \
             `*`, `@`, `$`, `:` and `/`, and is not `lo`; `ip -brief link` shows them"
        ))),
    }
}

fn is_interface(name: &str) -> bool {
    let fits = (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && !matches!(name, "." | ".." | "lo");
    fits && !name
        .contains(|letter: char| "*@$/:\"'`\\".contains(letter) || letter.is_whitespace() || letter.is_control())
}

/// What the document says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `None`: the mode is left alone.
    pub security: Option<Security>,
    pub proxy_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Nothing,
    Try(Wish),
    Await(Awaiting),
}

/// The owner's networks and interfaces are part of every closed mode.
pub fn policy_of(mode: Mode, ssh: &[IpNet], proxy_port: u16, owner: &OwnerRules) -> Policy {
    let closed = Policy {
        mode,
        proxy_tcp: BTreeSet::new(),
        ssh: Vec::new(),
        owner_ssh: Vec::new(),
        ssh_interfaces: owner.ssh_interfaces.clone(),
        trusted_interfaces: owner.trusted_interfaces.clone(),
    };
    match mode {
        Mode::Open => Policy::open(),
        Mode::Tunnel => closed,
        Mode::DaemonPort => Policy {
            proxy_tcp: [proxy_port].into(),
            ssh: ssh.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
            owner_ssh: owner.ssh.clone(),
            ..closed
        },
    }
}

/// `weigh` tells what stands in the way of a policy.
pub fn decide(
    active: Option<&Active>,
    document: &Document,
    owner: &OwnerRules,
    weigh: impl Fn(&Policy) -> Objections,
) -> Decision {
    let open = Policy::open();
    let now = active.map_or(&open, |active| &active.policy);
    let local_choice =
        active.is_some_and(|active| active.origin == Origin::Local && active.document == document.security);
    let Some(security) = document.security.as_ref().filter(|_| !local_choice) else {
        return active.map_or(Decision::Nothing, |active| follow_host(active, document, owner, weigh));
    };
    let to = policy_of(security.mode, &security.ssh, document.proxy_port, owner);
    if to == *now {
        return Decision::Nothing;
    }
    let wish = Wish { to, by: Origin::Document, document: document.security.clone() };
    let may = match owner.document {
        DocumentMay::Nothing => Err("policy.toml lets no document change what is let in"),
        DocumentMay::Harden if !is_as_closed(&wish.to, now) => {
            Err("it lets in more than is let in now, and policy.toml lets documents only shut")
        }
        DocumentMay::Harden | DocumentMay::Anything => Ok(()),
    };
    let objections = weigh(&wish.to);
    let why = match (may, objections.in_words()) {
        (Ok(()), None) => return Decision::Try(wish),
        (Ok(()), Some(words)) => words,
        (Err(why), None) => why.to_owned(),
        (Err(why), Some(words)) => format!("{why}; {words}"),
    };
    Decision::Await(Awaiting { mode: security.mode, why, command: command(security, &objections) })
}

/// What no document says follows the host: the proxy's port, whichever it is now, and what its owner wrote into policy.toml
/// since, which nobody needs to agree to but those whose SSH would end.
fn follow_host(
    active: &Active,
    document: &Document,
    owner: &OwnerRules,
    weigh: impl Fn(&Policy) -> Objections,
) -> Decision {
    let now = &active.policy;
    let to = policy_of(now.mode, &now.ssh, document.proxy_port, owner);
    if to == *now {
        return Decision::Nothing;
    }
    let objections = weigh(&to);
    // Another port alone shuts nobody out of SSH, whoever else filters here.
    let is_port_alone = Policy { proxy_tcp: to.proxy_tcp.clone(), ..now.clone() } == to;
    match objections.in_words().filter(|_| !is_port_alone) {
        None => Decision::Try(Wish { to, by: active.origin, document: active.document.clone() }),
        Some(why) => Decision::Await(Awaiting {
            mode: now.mode,
            why: format!("policy.toml is another one than when the mode was confirmed; {why}"),
            command: command(&Security { mode: now.mode, ssh: now.ssh.clone() }, &objections),
        }),
    }
}

/// Whether the first lets nobody in whom the second keeps out. The proxy's port may be another one.
fn is_as_closed(to: &Policy, from: &Policy) -> bool {
    if to.mode != from.mode {
        return to.mode > from.mode;
    }
    let known = from.ssh_networks();
    to.ssh.iter().all(|network| known.iter().any(|known| known.contains(network)))
}

fn command(security: &Security, objections: &Objections) -> String {
    let ssh: String = security.ssh.iter().map(|network| format!(" --ssh {network}")).collect();
    format!("agentctl security apply --mode {}{ssh}{}", security.mode, objections.words_to_go_on())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::consent::Stranded;
    use crate::firewall::foreign::{Finding, Severity};

    fn document(mode: Mode, ssh: &[&str]) -> Document {
        let ssh = ssh.iter().map(|network| network.parse().unwrap()).collect();
        Document { security: Some(Security { mode, ssh }), proxy_port: 8080 }
    }

    fn active(document: &Document, origin: Origin) -> Active {
        let security = document.security.clone().unwrap();
        let policy = policy_of(security.mode, &security.ssh, document.proxy_port, &OwnerRules::default());
        Active {
            policy,
            origin,
            tx: "t".into(),
            document: document.security.clone(),
            revision: String::new(),
            nft: serde_json::Value::Null,
        }
    }

    fn nobody(_: &Policy) -> Objections {
        Objections::default()
    }

    fn somebody(_: &Policy) -> Objections {
        let phrase = "block ssh from 198.51.100.20".to_owned();
        Objections { stranded: Some(Stranded { phrase, propose: Vec::new() }), ..Objections::default() }
    }

    #[test]
    fn a_document_shuts_by_itself_and_opens_with_consent_alone() {
        let owner = OwnerRules::default();
        let [open, port, tunnel] =
            [document(Mode::Open, &[]), document(Mode::DaemonPort, &["203.0.113.0/24"]), document(Mode::Tunnel, &[])];
        for (now, wanted, tried) in [
            (&open, &port, true),
            (&open, &tunnel, true),
            (&port, &tunnel, true),
            (&tunnel, &port, false),
            (&port, &open, false),
            (&port, &document(Mode::DaemonPort, &["203.0.113.0/25"]), true),
            (&port, &document(Mode::DaemonPort, &["203.0.112.0/23"]), false),
        ] {
            let decision = decide(Some(&active(now, Origin::Document)), wanted, &owner, nobody);
            assert_eq!(matches!(decision, Decision::Try(_)), tried, "{now:?} -> {wanted:?}: {decision:?}");
            let anything = OwnerRules { document: DocumentMay::Anything, ..owner.clone() };
            let decision = decide(Some(&active(now, Origin::Document)), wanted, &anything, nobody);
            assert!(matches!(decision, Decision::Try(_)));
            let nothing = OwnerRules { document: DocumentMay::Nothing, ..owner.clone() };
            let decision = decide(Some(&active(now, Origin::Document)), wanted, &nothing, nobody);
            assert!(matches!(decision, Decision::Await(_)));
        }
        assert_eq!(decide(Some(&active(&port, Origin::Document)), &port, &owner, somebody), Decision::Nothing);
        assert_eq!(decide(None, &open, &owner, somebody), Decision::Nothing);
    }

    #[test]
    fn nobodys_ssh_is_ended_without_being_asked() {
        let wanted = document(Mode::DaemonPort, &["203.0.113.0/24"]);
        let Decision::Await(awaiting) = decide(None, &wanted, &OwnerRules::default(), somebody) else { panic!() };
        assert_eq!(
            awaiting.command,
            "agentctl security apply --mode daemon-port --ssh 203.0.113.0/24 --phrase \"block ssh from 198.51.100.20\""
        );
        assert!(awaiting.why.contains("198.51.100.20"), "{}", awaiting.why);
    }

    #[test]
    fn what_else_filters_here_is_for_a_person_to_accept() {
        let finding = Finding { severity: Severity::Ask, text: "notrack".into(), cure: "look".into() };
        let asked = |_: &Policy| Objections { asked: vec![finding.clone()], ..Objections::default() };
        let wanted = document(Mode::Tunnel, &[]);
        let Decision::Await(awaiting) = decide(None, &wanted, &OwnerRules::default(), asked) else { panic!() };
        assert_eq!(awaiting.command, "agentctl security apply --mode tunnel --accept");
        assert_eq!(awaiting.why, "notrack (look)");
    }

    #[test]
    fn a_local_choice_lasts_until_the_section_changes() {
        let owner = OwnerRules::default();
        let asked = document(Mode::Tunnel, &[]);
        let mut local = active(&document(Mode::Open, &[]), Origin::Local);
        local.document = asked.security.clone();
        assert_eq!(decide(Some(&local), &asked, &owner, nobody), Decision::Nothing);
        let changed = document(Mode::DaemonPort, &[]);
        assert!(matches!(decide(Some(&local), &changed, &owner, nobody), Decision::Try(_)));
    }

    #[test]
    fn what_the_owner_writes_later_is_followed_whoever_chose_the_mode() {
        let network = |text: &str| -> IpNet { text.parse().unwrap() };
        let later = OwnerRules {
            ssh: vec![network("192.0.2.0/24")],
            trusted_interfaces: ["wg0".to_owned()].into(),
            ..OwnerRules::default()
        };
        let silent = Document { security: None, proxy_port: 8080 };
        let asked = document(Mode::DaemonPort, &["203.0.113.0/24"]);
        for (origin, document) in [(Origin::Local, &silent), (Origin::Local, &asked), (Origin::Document, &asked)] {
            let port = active(&asked, origin);
            let Decision::Try(wish) = decide(Some(&port), document, &later, nobody) else { panic!("{origin:?}") };
            assert_eq!(wish.to.ssh_networks(), [network("192.0.2.0/24"), network("203.0.113.0/24")]);
            assert_eq!(wish.to.trusted_interfaces, later.trusted_interfaces);
            let written = Active { policy: wish.to, ..port };
            assert_eq!(decide(Some(&written), document, &later, nobody), Decision::Nothing);
            // Taken out again, and somebody is in it.
            let Decision::Await(awaiting) = decide(Some(&written), document, &OwnerRules::default(), somebody) else {
                panic!("{origin:?}")
            };
            assert!(awaiting.command.starts_with("agentctl security apply --mode daemon-port --ssh 203.0.113.0/24 "));
        }
        assert_eq!(decide(None, &silent, &later, nobody), Decision::Nothing, "nothing was ever shut");
    }

    #[test]
    fn without_a_section_the_proxys_port_is_followed() {
        let owner = OwnerRules::default();
        let port = active(&document(Mode::DaemonPort, &[]), Origin::Local);
        let silent = Document { security: None, proxy_port: 8080 };
        assert_eq!(decide(Some(&port), &silent, &owner, nobody), Decision::Nothing);
        let moved = Document { security: None, proxy_port: 9090 };
        let Decision::Try(wish) = decide(Some(&port), &moved, &owner, somebody) else { panic!() };
        assert_eq!((wish.to.proxy_tcp, wish.by), ([9090].into(), Origin::Local));
        assert_eq!(decide(None, &moved, &owner, nobody), Decision::Nothing);
    }
}
