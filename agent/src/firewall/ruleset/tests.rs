use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::firewall::Session;

fn policy(mode: Mode) -> Policy {
    Policy {
        mode,
        proxy_tcp: [8080].into(),
        ssh: ["203.0.113.0/25", "203.0.113.128/25", "198.51.100.7/32", "2001:db8:2::/64"]
            .map(|network| network.parse().unwrap())
            .into(),
        owner_ssh: Vec::new(),
        ssh_interfaces: ["wg0".to_owned()].into(),
        trusted_interfaces: BTreeSet::new(),
    }
}

fn session(local: &str, peer: &str) -> Session {
    Session { local: local.parse().unwrap(), peer: peer.parse().unwrap() }
}

fn facts() -> Facts {
    Facts {
        ssh_ports: [22].into(),
        guest_interfaces: ["docker0".to_owned()].into(),
        bridged: BTreeSet::new(),
        survivors: [
            session("203.0.113.10:22", "198.51.100.20:40000"),
            session("[2001:db8:1::10]:22", "[2001:db8:2::20]:40000"),
        ]
        .into(),
        break_glass: None,
    }
}

/// `UPDATE_EXPECTED=1` writes the file anew; read the difference before committing it. One object a line.
fn expect(name: &str, ruleset: &Ruleset) {
    let value: Value = serde_json::from_str(&ruleset.text()).unwrap();
    let lines: Vec<String> = objects(&value).iter().map(Value::to_string).collect();
    let text = format!("{{\"nftables\":[\n{}\n]}}\n", lines.join(",\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/firewall/ruleset/expected").join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; see UPDATE_EXPECTED in this file", path.display());
}

fn objects(value: &Value) -> Vec<Value> {
    value["nftables"].as_array().unwrap().clone()
}

fn added(ruleset: &Ruleset, kind: &str) -> Vec<Value> {
    let value: Value = serde_json::from_str(&ruleset.text()).unwrap();
    objects(&value).into_iter().filter_map(|object| object["add"].get(kind).cloned()).collect()
}

/// The text of the last rule's acts, and its comment.
fn last(ruleset: &Ruleset, chain: &str) -> (String, String) {
    let rules = added(ruleset, "rule");
    let rule = rules.iter().rfind(|rule| rule["chain"] == chain).unwrap_or_else(|| panic!("no rule in {chain}"));
    (rule["expr"].to_string(), rule["comment"].as_str().unwrap().to_owned())
}

const FINAL_IN: &str = r#"[{"counter":"dropped_in"},{"drop":null}]"#;
const FINAL_FORWARD: &str = r#"[{"counter":"dropped_forward"},{"drop":null}]"#;

#[test]
fn rulesets_are_as_checked_in() {
    expect("daemon-port.json", &confirmed(&policy(Mode::DaemonPort), &facts()));
    expect("tunnel.json", &confirmed(&policy(Mode::Tunnel), &facts()));
    let window = Duration::from_secs(120);
    expect("trial.json", &trial(&policy(Mode::DaemonPort), &policy(Mode::Tunnel), &facts(), window));
    expect("trial-from-open.json", &trial(&Policy::open(), &policy(Mode::DaemonPort), &facts(), window));
}

#[test]
fn the_same_policy_is_the_same_text() {
    let one = confirmed(&policy(Mode::DaemonPort), &facts()).text();
    assert!((0..20).all(|_| confirmed(&policy(Mode::DaemonPort), &facts()).text() == one));
}

#[test]
fn a_revision_names_rules_and_not_what_passes_by_itself() {
    let plain = confirmed(&policy(Mode::Tunnel), &facts()).revision;
    let later = Facts {
        survivors: BTreeSet::new(),
        break_glass: Some(BreakGlass { ssh: vec!["::/0".parse().unwrap()], left: Duration::from_secs(9) }),
        ..facts()
    };
    assert_eq!(confirmed(&policy(Mode::Tunnel), &later).revision, plain);
    let window = Duration::from_secs(5);
    assert_eq!(trial(&Policy::open(), &policy(Mode::Tunnel), &later, window).revision, plain, "nor whether on trial");
    let other_port = Facts { ssh_ports: [2222].into(), ..facts() };
    assert_ne!(confirmed(&policy(Mode::Tunnel), &other_port).revision, plain);
    assert_ne!(confirmed(&policy(Mode::DaemonPort), &facts()).revision, plain);
}

#[test]
fn one_that_was_kept_on_disk_is_the_same() {
    let ruleset = trial(&policy(Mode::DaemonPort), &policy(Mode::Tunnel), &facts(), Duration::from_secs(9));
    let kept = serde_json::to_string(&ruleset).unwrap();
    let back: Ruleset = serde_json::from_str(&kept).unwrap();
    assert_eq!((back.text(), back.revision), (ruleset.text(), ruleset.revision));
}

#[test]
fn open_is_no_table_and_everything_accepted_on_trial() {
    let gone = r#"{"nftables":[{"add":{"table":{"family":"inet","name":"agentd"}}},{"delete":{"table":{"family":"inet","name":"agentd"}}}]}"#;
    assert_eq!(confirmed(&Policy::open(), &facts()).text(), gone);
    let opening = trial(&policy(Mode::Tunnel), &Policy::open(), &facts(), Duration::from_secs(5));
    assert_eq!(last(&opening, "trial_input").0, r#"[{"accept":null}]"#);
    assert_eq!(last(&opening, "input").0, FINAL_IN, "what it falls back to");
    let closing = trial(&Policy::open(), &policy(Mode::Tunnel), &facts(), Duration::from_secs(5));
    assert_eq!(last(&closing, "input").0, r#"[{"accept":null}]"#);
    assert_eq!(last(&closing, "trial_forward").0, FINAL_FORWARD);
}

#[test]
fn every_comment_names_a_number_of_the_page() {
    let page = include_str!("../../../../docs/security-modes.md");
    let rulesets = [
        confirmed(&policy(Mode::DaemonPort), &facts()),
        trial(&Policy::open(), &policy(Mode::Tunnel), &facts(), Duration::from_secs(5)),
    ];
    for rule in rulesets.iter().flat_map(|ruleset| added(ruleset, "rule")) {
        let comment = rule["comment"].as_str().unwrap().to_owned();
        let number = comment.split(' ').next().unwrap();
        assert!(page.contains(&format!("| {number} |")), "{comment}");
        // NFTNL_UDATA_COMMENT_MAXLEN
        assert!(comment.len() < 128, "{comment}");
    }
}

#[test]
fn break_glass_is_timed_elements_alone() {
    let networks = ["203.0.113.0/25", "203.0.113.128/25", "0.0.0.0/0", "2001:db8::1/128"];
    let glass =
        BreakGlass { ssh: networks.map(|network| network.parse().unwrap()).into(), left: Duration::from_millis(1500) };
    let text = open_ssh(&glass).text();
    let v4 = r#"{"elem":{"val":{"prefix":{"addr":"0.0.0.0","len":1}},"timeout":2}},{"elem":{"val":{"prefix":{"addr":"128.0.0.0","len":1}},"timeout":2}}"#;
    assert!(text.contains(v4), "{text}");
    assert!(text.contains(r#"{"elem":{"val":"2001:db8::1","timeout":2}}"#), "{text}");
    assert!(!text.contains("rule") && !text.contains("chain"), "{text}");
}

/// To nft it is a pattern; left out, nothing passes by it.
#[test]
fn a_name_that_means_more_to_nft_is_left_out() {
    let names = ["eth*", "@ssh", "$x", "", "a-name-of-16-byt", "wg0.1"].map(str::to_owned);
    let mut policy = policy(Mode::Tunnel);
    policy.trusted_interfaces = names.into();
    let ruleset = confirmed(&policy, &Facts::default());
    let trusted: Vec<Value> =
        added(&ruleset, "rule").into_iter().filter(|rule| rule["comment"] == "P9 trusted interface").collect();
    assert_eq!(trusted.len(), 2, "input and forward");
    for rule in trusted {
        assert_eq!(rule["expr"][0]["match"]["right"]["set"], serde_json::json!(["wg0.1"]));
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Open), Just(Mode::DaemonPort), Just(Mode::Tunnel)]
}

fn networks() -> impl Strategy<Value = Vec<IpNet>> {
    let network = (any::<IpAddr>(), 0..=128_u8).prop_map(|(address, length)| {
        IpNet::new(address, if address.is_ipv4() { length % 33 } else { length }).unwrap()
    });
    proptest::collection::vec(network, 0..6)
}

fn policies() -> impl Strategy<Value = Policy> {
    let names = || proptest::collection::btree_set(".{0,17}", 0..3);
    (modes(), proptest::collection::btree_set(any::<u16>(), 0..4), networks(), names(), names()).prop_map(
        |(mode, proxy_tcp, ssh, ssh_interfaces, trusted_interfaces)| Policy {
            mode,
            proxy_tcp,
            ssh,
            owner_ssh: Vec::new(),
            ssh_interfaces,
            trusted_interfaces,
        },
    )
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let names = || proptest::collection::btree_set(".{0,17}", 0..3);
    let end = || any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port));
    let session = (end(), end()).prop_map(|(local, peer)| Session { local, peer });
    let glass =
        (networks(), 0..100_000_u64).prop_map(|(ssh, seconds)| BreakGlass { ssh, left: Duration::from_secs(seconds) });
    (
        proptest::collection::btree_set(any::<u16>(), 0..3),
        names(),
        names(),
        proptest::collection::btree_set(session, 0..5),
        proptest::option::of(glass),
    )
        .prop_map(|(ssh_ports, guest_interfaces, bridged, survivors, break_glass)| Facts {
            ssh_ports,
            guest_interfaces,
            bridged,
            survivors,
            break_glass,
        })
}

fn closed_chains_end_in_a_drop(ruleset: &Ruleset, mode: Mode, input: &str, forward: &str) {
    if mode == Mode::Open {
        return;
    }
    for (chain, text) in [(input, FINAL_IN), (forward, FINAL_FORWARD)] {
        let (acts, comment) = last(ruleset, chain);
        assert_eq!(acts, text, "{chain}");
        assert_eq!(Stamp::find(&comment).map(|stamp| stamp.mode), Some(mode), "{comment}");
    }
}

proptest! {
    #[test]
    fn whatever_the_policy_closed_chains_end_in_a_drop(
        from in policies(), to in policies(), facts in any_facts(), seconds in 0..100_000_u64,
    ) {
        let rulesets = [
            confirmed(&to, &facts),
            trial(&from, &to, &facts, Duration::from_secs(seconds)),
        ];
        closed_chains_end_in_a_drop(&rulesets[0], to.mode, "input", "forward");
        closed_chains_end_in_a_drop(&rulesets[1], from.mode, "input", "forward");
        closed_chains_end_in_a_drop(&rulesets[1], to.mode, "trial_input", "trial_forward");
        // P2: what goes out is not ours to judge.
        for ruleset in &rulesets {
            for chain in added(ruleset, "chain") {
                let hook = chain["hook"].as_str();
                prop_assert!(matches!(hook, None | Some("input" | "forward")), "{chain}");
                let hooked = ["input", "forward"].iter().any(|name| chain["name"] == *name);
                prop_assert_eq!(hook.is_some(), hooked);
                let policy = chain["policy"].as_str();
                prop_assert!(policy != Some("accept") || from.mode == Mode::Open, "{chain}");
            }
        }
    }
}
