//! The rules of docs/security-modes.md against the real kernel, seen from a neighbour, from outside and from a guest.
//! Every silence is shown twice: without our table the same question is answered.

use std::io::Write;
use std::time::{Duration, Instant};

use agentd_tests::net::{
    FLOOD, FRAMES, GUEST4, GUEST6, HOST4, HOST6, Net, OUTSIDE4, OUTSIDE6, Place, Program, REACH, SCAN, SERVE, SESSION,
    SINK, STRANGER4, STRANGER6,
};
use serde_json::{Value, json};

/// SSH from half of the outside network: `OUTSIDE` is in it, `STRANGER` is not.
const POLICY: [&str; 6] = ["--proxy-port", "8080", "--ssh", "198.51.100.16/28", "--ssh", "2001:db8:2::20/124"];
const PORTS: u64 = 65_535;
/// A table that is deleted and made anew leaks once or more in some hundred.
const SWITCHES: u32 = 500;

/// The figures of a run; nextest shows them of a test that fails, or with --no-capture.
macro_rules! say {
    ($($words:tt)*) => {
        // A closed stdout is no failure of the firewall's.
        let _ = writeln!(std::io::stdout(), $($words)*); // see above
    };
}

fn apply(net: &Net, words: &[&str]) {
    net.firewall(&[&["apply"], words, &POLICY].concat());
}

fn mode(net: &Net, mode: &str) {
    apply(net, &["--mode", mode]);
}

fn read(net: &Net) -> Value {
    serde_json::from_str(&net.firewall(&["read"])).unwrap()
}

fn dropped(net: &Net) -> u64 {
    let read = read(net);
    read["dropped_in"].as_u64().unwrap() + read["dropped_forward"].as_u64().unwrap()
}

fn serve_host(net: &Net) -> Program {
    net.start(Place::Host, SERVE, &["tcp=22,80,5432,8080,10250", "udp=53,68,123,546,5353,8080", "local=9000"])
}

fn serve_guest(net: &Net) -> Program {
    net.start(Place::Guest, SERVE, &["tcp=80,5432", "udp=53"])
}

fn scan(net: &Net, from: &str, to: &str) -> Value {
    let found = net.python(Place::Outside, SCAN, &[from, to, "1"]);
    say!("D1 scan {from} -> {to}: {found}");
    found
}

fn reach(net: &Net, place: Place, seconds: &str, words: &[&str]) -> Value {
    net.python(place, REACH, &[&[seconds], words].concat())
}

/// Whether all of these got an answer, or none.
fn all(answers: &Value, is_answered: bool) -> bool {
    let answered = |answer: &Value| !answer.as_str().unwrap().starts_with("failed");
    answers.as_object().unwrap().values().all(|answer| answered(answer) == is_answered)
}

fn rendered(net: &Net, words: &[&str]) -> Value {
    serde_json::from_str(&net.firewall(&[&["render"], words, &POLICY].concat())).unwrap()
}

/// A ruleset less what `is_left_out` names: what the missing part was good for shows.
fn apply_without(net: &Net, words: &[&str], is_left_out: impl Fn(&Value) -> bool) {
    let mut ruleset = rendered(net, words);
    let objects = ruleset["nftables"].as_array_mut().unwrap();
    let before = objects.len();
    objects.retain(|object| !is_left_out(&object["add"]));
    assert!(objects.len() < before, "nothing to leave out");
    net.nft(Place::Host, &ruleset.to_string());
}

#[test]
fn a_scanner_sees_the_ports_a_mode_names_and_no_other() {
    let net = Net::with_engine();
    let mut host = serve_host(&net);
    let _guest = serve_guest(&net);
    let udp: Vec<String> = [53, 123, 5353, 8080]
        .iter()
        .flat_map(|port| [HOST4, HOST6].map(|address| format!("udp/{port}:{address}")))
        .collect();
    let udp: Vec<&str> = udp.iter().map(String::as_str).collect();
    let pings = [format!("ping:{HOST4}"), format!("ping:{HOST6}")];
    let pings: Vec<&str> = pings.iter().map(String::as_str).collect();

    // 8081 is published for the guest.
    let open = json!([22, 80, 5432, 8080, 8081, 10250]);
    for (from, to) in [(OUTSIDE4, HOST4), (OUTSIDE6, HOST6)] {
        let found = scan(&net, from, to);
        assert_eq!(found["open"], open, "{to}");
        assert_eq!(found["closed"], PORTS - 6, "every port answers where nothing filters");
    }
    assert!(all(&reach(&net, Place::Outside, "1", &udp), true));
    let unlimited = reach(&net, Place::Outside, "0.8", &[&format!("burst:{HOST4}")]);
    host.ask("what was seen");

    mode(&net, "tunnel");
    let before = dropped(&net);
    for (from, to) in [(OUTSIDE4, HOST4), (OUTSIDE6, HOST6)] {
        let found = scan(&net, from, to);
        assert_eq!((&found["open"], &found["closed"]), (&json!([]), &json!(0)), "{to}");
    }
    let refused = dropped(&net) - before;
    say!("D1 tunnel refused {refused} packets");
    assert!(refused >= 2 * PORTS, "all of them arrived: {refused}");
    assert!(all(&reach(&net, Place::Outside, "0.2", &udp), false));
    assert!(all(&reach(&net, Place::Outside, "0.2", &pings), false), "T1");
    assert_eq!(host.ask("what was seen"), json!({"tcp": {}, "udp": {}}), "no listener saw a packet");

    mode(&net, "daemon-port");
    for (from, to, named) in [
        (OUTSIDE4, HOST4, json!([22, 8080])),
        (OUTSIDE6, HOST6, json!([22, 8080])),
        (STRANGER4, HOST4, json!([8080])),
        (STRANGER6, HOST6, json!([8080])),
    ] {
        let found = scan(&net, from, to);
        assert_eq!((&found["open"], &found["closed"]), (&named, &json!(0)), "A1 A2 {from}");
    }
    assert!(all(&reach(&net, Place::Outside, "0.2", &udp), false));
    assert!(all(&reach(&net, Place::Outside, "1", &pings), true), "A3");
    let limited = reach(&net, Place::Outside, "0.8", &[&format!("burst:{HOST4}")]);
    let count = |burst: &Value| burst[format!("burst:{HOST4}")].as_str().unwrap().parse::<u32>().unwrap();
    say!("A3 of 200 pings {} were answered, {} without rules", count(&limited), count(&unlimited));
    assert!((1..=20).contains(&count(&limited)) && count(&unlimited) > 100);

    mode(&net, "open");
    assert_eq!(read(&net)["found"], "absent", "C7");
    assert!(all(&reach(&net, Place::Outside, "1", &udp), true), "C7");
}

#[test]
fn frames_that_belong_to_nothing_get_no_answer() {
    let net = Net::with_engine();
    let mut host = serve_host(&net);
    let _guest = serve_guest(&net);
    let mac = net.run(Place::Host, &["cat", "/sys/class/net/eth0/address"]).trim().to_owned();
    net.run(Place::Host, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"]);
    // Half-open connections of the runs without rules must not speak again later.
    net.run(Place::Host, &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_synack_retries"]);
    let addresses = net.run(Place::Host, &["ip", "-o", "-6", "address", "show", "dev", "eth0", "scope", "link"]);
    let link = addresses.split_whitespace().find_map(|word| word.strip_suffix("/64")).unwrap().to_owned();
    let send = |what: &str, argument: &str| {
        let found = net.python(Place::Router, FRAMES, &["in0", &mac, what, argument]);
        let replies = found["replies"].as_array().unwrap().clone();
        say!("{what}: {} frames, {} replies", found["sent"], replies.len());
        replies
    };

    // An answer from a loopback address asks for the neighbour in that address's name, and finds none: ask before.
    let meet = || {
        let answers = reach(&net, Place::Host, "2", &["ping:203.0.113.1", "ping:2001:db8:1::1"]);
        assert!(all(&answers, true), "{answers}");
    };

    let kinds = [("martians", "D2"), ("strays", "D5 D8"), ("messages", "D7"), ("forwarded", "D4")];
    for (name, allowed) in [("tunnel", ""), ("daemon-port", "8080")] {
        mode(&net, name);
        meet();
        for (kind, number) in kinds {
            assert_eq!(send(kind, allowed), [Value::Null; 0], "{number} {name}");
        }
        send("not_dhcp", &link);
        assert_eq!(host.ask("what was seen"), json!({"tcp": {}, "udp": {}}), "{name}");
    }
    // Answers of this host make what was no reply before into one: so not in between.
    for name in ["daemon-port", "tunnel"] {
        mode(&net, name);
        send("dhcp", &link);
        assert_eq!(host.ask("what was seen")["udp"], json!({"68": 1, "546": 1}), "P6 {name}");
    }

    // Last: what the host says now, it may be answered to.
    mode(&net, "open");
    meet();
    for (kind, number) in kinds {
        assert!(!send(kind, "").is_empty(), "{number} without rules");
    }
    let loopback = send("martians", "").iter().any(|reply| reply == "tcp 127.0.0.1:9000 flags 18");
    assert!(loopback, "D2: without rules a neighbour reaches what listens on loopback");
    host.ask("what was seen");
    send("not_dhcp", &link);
    assert_eq!(host.ask("what was seen")["udp"], json!({"68": 1, "546": 2}));
}

#[test]
fn what_starts_on_the_host_or_its_guests_passes() {
    let net = Net::with_engine();
    let _host = serve_host(&net);
    let _guest = serve_guest(&net);
    let _outside = net.start(Place::Outside, SERVE, &["tcp=443", "udp=53,443"]);
    let outwards: Vec<String> = [OUTSIDE4, OUTSIDE6]
        .iter()
        .flat_map(|to| ["tcp", "upload", "udp", "udp/53", "big", "ping"].map(|what| format!("{what}:{to}")))
        .collect();
    let outwards: Vec<&str> = outwards.iter().map(String::as_str).collect();
    let local = ["tcp/9000:127.0.0.1", "tcp/9000:::1", "tcp/80:203.0.113.10", "tcp/80:2001:db8:1::10"];
    let published = [format!("tcp/8081:{HOST4}"), format!("tcp/8081:{HOST6}")];
    let published: Vec<&str> = published.iter().map(String::as_str).collect();
    let uploads = [format!("upload:{OUTSIDE4}"), format!("upload:{OUTSIDE6}")];
    let uploads: Vec<&str> = uploads.iter().map(String::as_str).collect();
    let forget = || {
        for place in [Place::Host, Place::Guest] {
            net.run(place, &["ip", "route", "flush", "cache"]);
            net.run(place, &["ip", "-6", "route", "flush", "cache"]);
            net.run(place, &["ip", "neigh", "flush", "all"]);
        }
    };

    let answers = reach(&net, Place::Outside, "4", &published);
    assert!(all(&answers, true), "D3 without rules: {answers}");
    for name in ["tunnel", "daemon-port"] {
        mode(&net, name);
        for (place, number) in [(Place::Host, "P2 P3 P4 P5"), (Place::Guest, "P8")] {
            forget();
            let answers = reach(&net, place, "4", &outwards);
            assert!(all(&answers, true), "{number} {name}: {answers}");
        }
        forget();
        for (family, to) in [("-4", OUTSIDE4), ("-6", OUTSIDE6)] {
            let route = || net.run(Place::Host, &["ip", family, "route", "get", to]);
            assert!(!route().contains("mtu 1300"));
            reach(&net, Place::Host, "4", &[&format!("upload:{to}")]);
            assert!(route().contains("mtu 1300"), "P4 {name}: {}", route());
        }
        let answers = reach(&net, Place::Host, "1", &local);
        assert!(all(&answers, true), "P1 {name}: {answers}");
        let answers = reach(&net, Place::Guest, "1", &["udp/53:172.31.0.1", "udp/53:fd31::1"]);
        assert!(all(&answers, true), "P8 {name}: {answers}");
        assert!(
            all(&reach(&net, Place::Guest, "0.3", &["tcp/5432:172.31.0.1", "udp/123:fd31::1"]), false),
            "D1 {name}"
        );
        assert!(all(&reach(&net, Place::Outside, "0.3", &published), false), "D3 {name}");
        let direct = [format!("tcp/5432:{GUEST4}"), format!("tcp/5432:{GUEST6}")];
        let direct: Vec<&str> = direct.iter().map(String::as_str).collect();
        assert!(all(&reach(&net, Place::Router, "0.3", &direct), false), "D4 {name}");
    }

    let is_error_rule =
        |object: &Value| object["rule"]["comment"].as_str().is_some_and(|comment| comment.ends_with("errors"));
    apply_without(&net, &["--mode", "tunnel"], is_error_rule);
    forget();
    let hung = reach(&net, Place::Host, "2", &uploads);
    assert!(all(&hung, false), "without P4 the narrow hop is a hole: {hung}");
}

#[test]
fn a_connection_older_than_the_rules_goes_on() {
    let net = Net::new();
    let _host = serve_host(&net);
    let words = ["2", &format!("{HOST4}/22"), &format!("{HOST6}/22")];
    let tracked = || net.run(Place::Host, &["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).trim().to_owned();
    let is_survivor =
        |object: &Value| object["element"]["name"].as_str().is_some_and(|name| name.starts_with("survivors"));

    let mut session = net.start(Place::Outside, SESSION, &words);
    assert_eq!(tracked(), "0");
    apply_without(&net, &["--mode", "tunnel"], is_survivor);
    assert!(all(&session.ask("speak"), false), "without P7 it is dead");

    net.run(Place::Host, &["nft", "flush", "ruleset"]);
    let mut session = net.start(Place::Outside, SESSION, &words);
    mode(&net, "tunnel");
    let begun = Instant::now();
    let answers = session.ask("speak");
    say!("P7 answered after {:?}: {answers}", begun.elapsed());
    assert!(all(&answers, true), "P7");
    let new = [format!("tcp/22:{HOST4}"), format!("tcp/22:{HOST6}")];
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    assert!(all(&reach(&net, Place::Outside, "0.3", &new), false), "D1");
    mode(&net, "daemon-port");
    assert!(all(&session.ask("speak"), true), "P7");
}

/// A conversation of datagrams has no end; the kernel counts it as established for as long as somebody keeps asking.
#[test]
fn datagrams_go_on_for_who_was_asked_and_not_for_who_asks() {
    let net = Net::with_engine();
    let _host = serve_host(&net);
    let _guest = serve_guest(&net);
    let _outside = net.start(Place::Outside, SERVE, &["tcp=443", "udp=443"]);
    let [from_outside, from_host] = [
        (Place::Outside, vec![format!("udp:{HOST4}/53"), format!("udp:{HOST6}/53")]),
        (Place::Host, vec![format!("udp:{OUTSIDE4}/443"), format!("udp:{OUTSIDE6}/443")]),
    ]
    .map(|(place, words)| {
        let words: Vec<&str> = ["0.5"].into_iter().chain(words.iter().map(String::as_str)).collect();
        net.start(place, SESSION, &words)
    });
    let (mut from_outside, mut from_host) = (from_outside, from_host);
    for session in [&mut from_outside, &mut from_host] {
        assert!(all(&session.ask("speak"), true), "where nothing filters");
    }
    for name in ["tunnel", "daemon-port"] {
        mode(&net, name);
        assert!(all(&from_outside.ask("speak"), false), "D1 {name}");
        assert!(all(&from_host.ask("speak"), true), "P3 {name}");
    }
    mode(&net, "open");
    assert!(all(&from_outside.ask("speak"), true), "C7");
}

#[test]
fn ssh_is_let_in_for_a_while_and_the_kernel_ends_it() {
    let net = Net::new();
    let _host = serve_host(&net);
    let to = format!("tcp/22:{HOST4}");
    let opens = |words: &[&str]| all(&reach(&net, Place::Outside, "0.3", &[words, &[&to]].concat()), true);
    mode(&net, "tunnel");
    assert!(!opens(&[]), "T1");

    let begun = Instant::now();
    net.firewall(&["open-ssh", "198.51.100.16/28", "2001:db8:2::20/124", "--window", "6"]);
    assert!(opens(&[]), "T2");
    assert!(all(&reach(&net, Place::Outside, "0.3", &[&format!("tcp/22:{HOST6}")]), true), "T2");
    assert!(!opens(&[&format!("from={STRANGER4}")]), "from the networks named alone");
    let mut session = net.start(Place::Outside, SESSION, &["2", &format!("{HOST4}/22")]);
    assert!(read(&net)["found"].as_str().unwrap().starts_with("confirmed mode=tunnel"), "no rule was changed");
    // Rules applied anew meanwhile leave the kernel's clock alone.
    mode(&net, "tunnel");
    assert!(opens(&[]), "T2");
    until("the kernel ends it", || !opens(&[]));
    say!("T2 a window of 6 s was over after {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() > Duration::from_millis(5900), "not before its time");
    assert!(all(&session.ask("speak"), true), "who is in stays in");
    assert_eq!(read(&net)["exposure"], "none");
}

#[test]
fn no_packet_slips_through_while_modes_change() {
    let net = Net::new();
    let mut sink = net.start(Place::Host, SINK, &["7777"]);
    let mut flood = net.start(Place::Outside, FLOOD, &[HOST4, "7777"]);
    let mut arrived = || sink.ask("how many")["count"].as_u64().unwrap();
    until("the flood arrives where nothing filters", || arrived() > 100);

    let rulesets = [
        &["--mode", "tunnel"][..],
        &["--mode", "daemon-port"],
        &["--mode", "tunnel", "--from", "daemon-port", "--window", "60"],
        &["--mode", "daemon-port", "--from", "tunnel", "--window", "60"],
    ]
    .map(|words| rendered(&net, words).to_string());
    net.nft(Place::Host, &rulesets[0]);
    until("what was under way has arrived", || arrived() == 0);
    flood.ask("how many");
    let begun = Instant::now();
    for ruleset in (0..SWITCHES).zip(rulesets.iter().cycle()).map(|(_, ruleset)| ruleset) {
        net.nft(Place::Host, ruleset);
    }
    let (leaked, sent) = (arrived(), flood.ask("how many")["sent"].as_u64().unwrap());
    say!("C1 {SWITCHES} switches in {:.1} s, {sent} datagrams, {leaked} leaked", begun.elapsed().as_secs_f64());
    assert_eq!(leaked, 0, "C1");
    assert!(sent > 10_000, "the flood went on: {sent}");
    mode(&net, "open");
    until("the flood arrives again", || arrived() > 100);
}

#[test]
fn a_trial_nobody_confirms_ends_by_itself() {
    let net = Net::new();
    let _host = serve_host(&net);
    let answers = |port: u16| all(&reach(&net, Place::Outside, "0.3", &[&format!("tcp/{port}:{HOST6}")]), true);
    let found = || read(&net)["found"].as_str().unwrap().to_owned();

    // Whoever applied it has ended; nothing of ours runs.
    let begun = Instant::now();
    apply(&net, &["--mode", "tunnel", "--from", "open", "--window", "3"]);
    assert!(!answers(8080) && !answers(80), "C2 the new mode is in force");
    assert!(found().starts_with("trial mode=open"), "{}", found());
    until("the kernel is back at `open`", || answers(80));
    say!("C2 a window of 3 s ended after {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() > Duration::from_millis(2900), "not before its time");
    assert!(found().ends_with("left=0s"), "{}", found());
    assert_eq!(read(&net)["exposure"], "unmanaged");

    mode(&net, "daemon-port");
    apply(&net, &["--mode", "tunnel", "--from", "daemon-port", "--window", "2"]);
    assert!(!answers(8080), "C2");
    until("the kernel is back at `daemon-port`", || answers(8080));
    assert!(!answers(80), "D1 the old mode is a closed one");

    apply(&net, &["--mode", "tunnel", "--from", "daemon-port", "--window", "60"]);
    mode(&net, "tunnel");
    assert!(found().starts_with("confirmed mode=tunnel"), "{}", found());
    let table = net.run(Place::Host, &["nft", "list", "table", "inet", "agentd"]);
    assert!(!table.contains("trial") && !table.contains("armed"), "no trace of the trial: {table}");
}

#[test]
fn a_table_that_somebody_changed_is_told_from_ours() {
    let net = Net::new();
    let found = || read(&net)["found"].as_str().unwrap().to_owned();
    assert_eq!(found(), "absent");
    let table = || {
        let listed = net.run(Place::Host, &["nft", "-s", "list", "table", "inet", "agentd"]);
        // Which connections there were is another matter.
        listed.lines().filter(|line| !line.contains("elements = ")).collect::<Vec<_>>().join("\n")
    };
    mode(&net, "daemon-port");
    let before = table();
    let changes = [
        "add map inet agentd mine { type inet_service : verdict; elements = { 99 : goto icmp_in }; }",
        "add chain inet agentd mine; add rule inet agentd input jump mine",
        "add counter inet agentd mine",
        "add chain inet agentd mine { type nat hook prerouting priority -100; }",
        "delete set inet agentd seal; add set inet agentd seal { type ipv4_addr; }",
        "flush table inet agentd; delete chain inet agentd input; add chain inet agentd input { type filter hook input \
         priority 50; }",
        "add table inet agentd { flags dormant; }",
        "insert rule inet agentd input tcp dport 99 accept",
        "insert rule inet agentd icmp_in accept",
        "add rule inet agentd input accept",
        "flush chain inet agentd survivors_in",
        "flush chain inet agentd input",
        "chain inet agentd input { policy accept; }",
        "add chain inet agentd mine { type filter hook input priority -20; }",
        "add set inet agentd mine { type inet_service; }",
        "flush set inet agentd seal",
        "flush table inet agentd",
    ];
    for change in changes {
        mode(&net, "daemon-port");
        assert!(found().starts_with("confirmed mode=daemon-port"), "{}", found());
        net.run(Place::Host, &["nft", change]);
        let said = found();
        say!("C6 {change}: {said}");
        assert!(said.starts_with("altered: "), "{change}: {said}");
        assert_eq!(read(&net)["exposure"], "unmanaged", "{change}");
        mode(&net, "daemon-port");
        assert!(found().starts_with("confirmed mode=daemon-port"), "{change} is undone: {}", found());
        let after = table();
        assert_eq!(after, before, "{change} left nothing behind");
    }
}

#[test]
fn a_trusted_interface_lets_everything_in_and_no_other_does() {
    let net = Net::new();
    let _host = serve_host(&net);
    let guest = || {
        let words = ["tcp/5432:172.31.0.1", "tcp/10250:fd31::1", "udp/123:fd31::1"];
        reach(&net, Place::Guest, "0.3", &words)
    };
    let outside = || {
        let words = [format!("tcp/5432:{HOST4}"), format!("tcp/5432:{HOST6}"), format!("udp/123:{HOST6}")];
        reach(&net, Place::Outside, "0.3", &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for name in ["tunnel", "daemon-port"] {
        mode(&net, name);
        assert!(all(&guest(), false), "control: nobody is trusted by default ({name})");
        apply(&net, &["--mode", name, "--trusted-interface", "guests"]);
        assert!(all(&guest(), true), "P9 {name}: {}", guest());
        assert!(all(&outside(), false), "{name}: {}", outside());
        apply(&net, &["--mode", name, "--trusted-interface", "eth0"]);
        assert!(all(&outside(), true) && all(&guest(), false), "P9 {name}: {}", outside());
    }
}

#[test]
fn a_connection_that_a_helper_expects_does_not_pass() {
    let net = Net::new();
    let _host = serve_host(&net);
    let _outside = net.start(Place::Outside, SERVE, &["tcp=443"]);
    // What a tracking helper does, without its protocol: who is asked on 443 is expected back on 5432.
    net.run(
        Place::Host,
        &[
            "nft",
            "table ip helper { \
               ct expectation back { protocol tcp; dport 5432; timeout 1h; size 8; l3proto ip; }; \
               counter related { }; \
               chain out { type filter hook output priority 0; tcp dport 443 ct state new ct expectation set \"back\"; }; \
               chain seen { type filter hook prerouting priority -50; tcp dport 5432 ct state related counter name related; }; \
             }",
        ],
    );
    let related = || {
        let counter: Value =
            serde_json::from_str(&net.run(Place::Host, &["nft", "-j", "list", "counter", "ip", "helper", "related"]))
                .unwrap();
        counter["nftables"][1]["counter"]["packets"].as_u64().unwrap()
    };
    let comes_back = || {
        let before = related();
        assert!(all(&reach(&net, Place::Host, "1", &[&format!("tcp/443:{OUTSIDE4}")]), true));
        let words = [format!("from={OUTSIDE4}"), format!("tcp/5432:{HOST4}")];
        let answers = all(&reach(&net, Place::Outside, "0.5", &words.each_ref().map(String::as_str)), true);
        assert!(related() > before, "control: the kernel took it for a related one");
        answers
    };
    assert!(comes_back(), "control: where nothing filters");
    for name in ["tunnel", "daemon-port"] {
        mode(&net, name);
        assert!(!comes_back(), "D6 {name}");
    }
    // The rule most firewalls have lets it in.
    net.run(Place::Host, &["nft", "insert rule inet agentd input ct state related accept"]);
    assert!(comes_back(), "control: it is our want of this rule that keeps it out");
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    const LIMIT: Duration = Duration::from_secs(15);
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20)); // poll: the kernel's timers tell nobody
    }
}
