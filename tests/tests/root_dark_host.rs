//! The whole of docs/security-modes.md on one real host, installed as a user would, from open to dark and back.

mod dark;

use std::time::{Duration, Instant};

use agentd_protocol::security::{Exposure, Mode};
use agentd_tests::host::{HOST_V4, HOST_V6, Load, OUTSIDE_V4, OUTSIDE_V6, Package, difference};
use dark::{Dark, STRANGER_V4, STRANGER_V6, Scan, URL, say};

const INSTALL: &str = "sh /var/tmp/agentd/install.sh --offline /var/tmp/agentd";
/// C6.
const REPAIR_MAX: Duration = Duration::from_secs(2);
const PORTS: u64 = 65_535;
/// Open on the careless host: SSH, the published port of its guest, and a program nobody thought of.
const CARELESS: [u64; 3] = [22, 8081, 9000];

#[test]
fn a_host_goes_dark_and_back() {
    let begun = Instant::now();
    let mut dark = Dark::new();
    let before = careless(&mut dark);
    stage(&begun, "careless host recorded");
    installed(&dark, &before);
    stage(&begun, "installed");
    only_the_proxy(&dark);
    stage(&begun, "daemon-port");
    dark_by_document(&dark);
    stage(&begun, "tunnel");
    broken_and_mended(&dark);
    stage(&begun, "broken and mended");
    upgraded(&dark);
    guarded(&dark);
    kernel_alone(&dark);
    stage(&begun, "upgraded, and a trial nobody confirmed");
    with_a_tunnel(&dark);
    lost_nothing_outbound(&dark);
    stage(&begun, "a tunnel");
    booted(&mut dark);
    stage(&begun, "booted in a storm");
    glass_broken(&dark);
    stage(&begun, "glass broken");
    removed(&dark, &before);
    lost_nothing_outbound(&dark);
    stage(&begun, "removed");
}

fn stage(begun: &Instant, what: &str) {
    say(&format!("--- {:.1} s: {what}", begun.elapsed().as_secs_f32()));
}

/// P2, without a pause since the last boot: every question got its answer.
fn lost_nothing_outbound(dark: &Dark) {
    let (asked, lost) = dark.outbound();
    say(&format!("outbound: {asked} asked, {} lost", lost.lines().count()));
    assert!(asked > 100 && lost.is_empty(), "{asked} asked, lost:\n{lost}");
}

/// UFW's owner lets in SSH and nothing else, and gets back the files they had, to the byte.
#[test]
fn a_host_with_ufw_serves_and_gets_its_files_back() {
    let begun = Instant::now();
    let mut dark = Dark::new();
    dark.host.must("systemctl disable --quiet --now nftables guest");
    dark.host.must("ufw allow 22/tcp && ufw --force enable && systemctl enable --quiet ufw");
    dark.reboot_in_a_storm();
    let before = dark.host.record();
    assert!(dark.gets_in(22) && !dark.gets_in(9000), "control: ufw is in force");
    Package::build("+1").publish(&dark.host, "/var/tmp/agentd");
    dark.host.must(&format!("{INSTALL} --stack /var/tmp/stack.toml --yes"));
    dark.answers();
    assert!(!dark.serves_outside(HOST_V4), "control: what ufw shuts stays shut without its allow");
    stage(&begun, "installed beside ufw");

    dark.host.must(&format!("agentctl security apply --mode daemon-port --ssh {OUTSIDE_V4}/32"));
    assert_eq!(dark.ssh(OUTSIDE_V4, "agentctl security confirm").code, 0);
    let is_served = |dark: &Dark| {
        let status = dark.status();
        assert_eq!((status.mode, status.exposure, status.altered), (Mode::DaemonPort, Exposure::DaemonPort, None));
        assert!(status.enforcement.starts_with("nftables (+ufw allows)"), "{}", status.enforcement);
        assert!(dark.serves_outside(HOST_V4) && dark.serves_outside("[2001:db8:1::2]"));
        for (from, to, open) in [(OUTSIDE_V4, HOST_V4, &[22, 8080][..]), (STRANGER_V6, HOST_V6, &[8080])] {
            let found = dark.scan(from, to);
            assert_eq!((&found.open[..], found.closed), (open, 0), "from {from}");
        }
    };
    is_served(&dark);
    dark.host.must("ufw reload");
    is_served(&dark);
    dark.reboot_in_a_storm();
    dark.answers();
    is_served(&dark);
    stage(&begun, "served through ufw");

    dark.host.must("agentctl security apply --mode tunnel --phrase 'block ssh'");
    dark.host.must("agentctl security confirm");
    assert_eq!(dark.scan_both(), Scan { open: Vec::new(), closed: 0 });
    let told = dark.host.must("ufw status");
    assert!(!told.contains("8080"), "no mode needs it any more: {told}");
    stage(&begun, "tunnel");
    dark.host.must("sh /var/tmp/agentd/install.sh --uninstall --purge --yes");
    assert!(dark.gets_in(22) && !dark.gets_in(9000));
    assert_eq!(difference(&before, &dark.host.record()), [""; 0], "nothing is left");
    lost_nothing_outbound(&dark);
    stage(&begun, "removed");
}

/// The control of every silence that follows: all of it answers.
fn careless(dark: &mut Dark) -> String {
    let storm = dark.reboot_in_a_storm();
    let callers = dark.callers();
    say(&format!("boot without agentd: storm {storm}, {callers} reached the listeners"));
    assert!(callers > 0 && storm["answers"].as_u64().unwrap() > 0, "control: a storm gets in while the host boots");
    dark.until("the guest listens", |dark| dark.gets_in(8081));
    let found = dark.scan_both();
    assert_eq!((&found.open[..], found.closed), (&CARELESS[..], PORTS - 3));
    assert!(dark.udp_answers() && dark.pings() && dark.reaches_outside());
    // What is lost is seen: a question that nobody answers.
    dark.host.must("systemctl is-active outbound");
    dark.host.record()
}

fn installed(dark: &Dark, before: &str) {
    let package = Package::build("+1");
    package.publish(&dark.host, "/var/tmp/agentd");
    say(&format!("package: {} bytes", dark.host.must("stat --format %s /var/tmp/agentd/*.deb").trim()));
    let plan = dark.host.must(&format!("{INSTALL} --stack /var/tmp/stack.toml --mode tunnel --dry-run"));
    assert!(plan.contains("nothing was changed") && plan.contains("\"nftables\""), "{plan}");
    assert_eq!(difference(before, &dark.host.record()), [""; 0], "a dry run changes nothing");
    let start = Instant::now();
    dark.host.must(&format!("{INSTALL} --stack /var/tmp/stack.toml --yes"));
    say(&format!("install: {:.1} s", start.elapsed().as_secs_f32()));
    dark.answers();
    say(&format!("install until the service answers: {:.1} s", start.elapsed().as_secs_f32()));
    assert_ne!(difference(before, &dark.host.record()), [""; 0], "control: the records see a package");
    let status = dark.status();
    assert_eq!((status.mode, status.exposure), (Mode::Open, Exposure::Unmanaged));
    assert_eq!(dark.scan(OUTSIDE_V4, HOST_V4).open, [22, 8080, 8081, 9000], "open: as found, and the proxy");
}

/// A1, A2, D1, D3.
fn only_the_proxy(dark: &Dark) {
    let networks = format!("--ssh {OUTSIDE_V4}/32 --ssh {OUTSIDE_V6}/128");
    dark.host.must(&format!("agentctl security apply --mode daemon-port {networks}"));
    let confirmed = dark.ssh(OUTSIDE_V4, "agentctl security confirm");
    assert_eq!(confirmed.code, 0, "a new connection proves the way in: {confirmed:?}");
    let status = dark.status();
    assert_eq!((status.mode, status.exposure, status.altered), (Mode::DaemonPort, Exposure::DaemonPort, None));
    dark.callers();
    for (from, to, open) in [
        (OUTSIDE_V4, HOST_V4, &[22, 8080][..]),
        (OUTSIDE_V6, HOST_V6, &[22, 8080]),
        (STRANGER_V4, HOST_V4, &[8080]),
        (STRANGER_V6, HOST_V6, &[8080]),
    ] {
        let found = dark.scan(from, to);
        assert_eq!((&found.open[..], found.closed), (open, 0), "from {from}");
    }
    assert!(dark.serves_outside(HOST_V4) && dark.serves_outside("[2001:db8:1::2]"));
    assert!(!dark.udp_answers() && dark.pings() && dark.reaches_outside());
    assert_eq!(dark.callers(), 0);
    assert_ne!(dark.ssh(STRANGER_V4, "true").code, 0);
}

/// T1, P2, P7, D1, D3: a document closes the host once a person has agreed to the end of SSH.
fn dark_by_document(dark: &Dark) {
    let mut session = dark.ssh_session();
    assert_eq!(session.ask("1"), 1);
    dark.host.must("printf '[security]\\nmode = \"tunnel\"\\n' >>/etc/agentd/stack.toml");
    dark.until("the document waits for a person", |dark| dark.status().awaiting.is_some());
    assert!(dark.gets_in(22) && dark.serves_outside(HOST_V4), "nobody was cut off meanwhile");
    let command = dark.status().awaiting.expect("it waits").command;
    say(&format!("to agree: {command}"));
    dark.host.must(&command);
    dark.host.must("agentctl security confirm");
    let status = dark.status();
    assert_eq!((status.mode, status.exposure, status.awaiting), (Mode::Tunnel, Exposure::None, None));
    dark.callers();
    is_dark(dark);
    assert_eq!(session.ask("2"), 2, "P7: the session goes on");
    assert_ne!(dark.ssh(OUTSIDE_V4, "true").code, 0, "T1: and no new one begins");
    let listens = || dark.host.must("ss --listening --tcp --numeric --no-header 'sport = :8080' | awk '{print $4}'");
    dark.until("the proxy listens on loopback alone", |_| listens().lines().all(|line| line.starts_with("127.")));
    assert!(!listens().is_empty());
    dark.answers();
    let shown = dark.host.must("agentctl status");
    assert!(shown.contains("security: tunnel, exposure none"), "{shown}");
}

/// Nothing is open, nothing says so, and what goes out still comes back.
fn is_dark(dark: &Dark) {
    assert_eq!(dark.scan_both(), Scan { open: Vec::new(), closed: 0 });
    assert!(!dark.udp_answers() && !dark.pings() && !dark.gets_in(8081));
    assert_eq!(dark.callers(), 0, "no listener saw a packet");
    assert!(dark.reaches_outside());
}

/// C4, C6.
fn broken_and_mended(dark: &Dark) {
    let is_back = |dark: &Dark| dark.table().is_some();
    for _ in 0..3 {
        dark.host.must("nft flush ruleset");
        let took = dark.until("the rules are back", is_back);
        say(&format!("nft flush ruleset: back within {} ms", took.as_millis()));
        assert!(took < REPAIR_MAX);
    }
    let rules = dark.until("the rules are settled", |dark| dark.status().altered.is_none());
    say(&format!("settled after {} ms more, {} repairs", rules.as_millis(), dark.status().repairs));
    let before = dark.table();
    dark.host.must("kill -KILL $(systemctl show --property MainPID --value agentd)");
    assert_eq!(dark.table(), before, "the same rules with the same handles");
    dark.host.until("another manager answers", "agentctl status");
    assert_eq!(dark.table(), before);
    dark.host.must("systemctl stop agentd");
    assert_eq!(dark.table(), before);
    dark.answers();
    assert!(!dark.gets_in(9000));
    // Nobody is there but systemd: Debian's unit flushes everything, and ours follows it.
    dark.callers();
    let storm = dark.storm();
    let start = Instant::now();
    dark.host.must("systemctl restart nftables");
    dark.until("the rules are back", is_back);
    say(&format!("systemctl restart nftables without agentd: back within {} ms", start.elapsed().as_millis()));
    drop(storm);
    say(&format!("{} datagrams and connections came through meanwhile", dark.callers()));
    dark.host.until("the unit is done", "systemctl is-active agentd-firewall");
    dark.host.must("systemctl start agentd");
    dark.host.until("the guest serves again", "curl --silent http://172.31.0.2/ >/dev/null");
    is_dark(dark);
}

fn upgraded(dark: &Dark) {
    let load = Load::start(&dark.host, URL);
    let before = dark.table();
    let manager = || dark.host.must("systemctl show --property MainPID --value agentd");
    let old = manager();
    Package::build("+2").publish(&dark.host, "/var/tmp/agentd");
    dark.host.must(&format!("{INSTALL} --yes"));
    dark.until("another manager serves", |dark| manager() != old && dark.host.run("agentctl status").code == 0);
    assert_eq!(dark.table(), before, "C4");
    let outcome = load.end();
    say(&format!("upgrade under load: {} answered, {} failed", outcome.answered, outcome.failures.len()));
    assert!(outcome.failures.is_empty() && outcome.answered > 100, "{outcome:?}");
}

/// C2: with the manager dead, the guard of a trial tidies up what the kernel ended.
fn guarded(dark: &Dark) {
    let pending = "test -e /var/lib/agentd/firewall/pending.json";
    let guards = || dark.host.must("systemctl list-units --no-legend --plain 'agentd-firewall-rollback-*'");
    dark.host.must("agentctl security apply --mode open --window 5s");
    dark.host.must("systemctl stop agentd");
    assert!(guards().contains(" active running "), "{}", guards());
    dark.host.must(pending);
    dark.until("the trial is forgotten", |dark| dark.host.run(pending).code != 0);
    assert!(!dark.gets_in(9000));
    dark.until("its guard ends", |_| guards().is_empty());
    dark.host.must("systemctl start agentd");
    dark.until("the manager knows", |dark| dark.host.run("agentctl status").code == 0 && dark.status().trial.is_none());
}

/// C2: with the manager and the watchdog dead, only the kernel is left to end a trial.
fn kernel_alone(dark: &Dark) {
    let start = Instant::now();
    dark.host.must("agentctl security apply --mode open --window 5s");
    assert!(dark.gets_in(9000) && dark.gets_in(8081), "control: the trial opens the host");
    dark.host.must(
        "systemctl kill --signal KILL agentd; systemctl stop agentd; systemctl kill --signal KILL 'agentd-firewall-rollback-*'; systemctl stop 'agentd-firewall-rollback-*'",
    );
    assert!(dark.gets_in(9000), "control: still open after everybody died");
    dark.until("the kernel shuts it", |dark| !dark.gets_in(9000));
    say(&format!("a trial of 5 s was over after {:.1} s, with nobody alive", start.elapsed().as_secs_f32()));
    dark.callers();
    is_dark(dark);
    dark.host.must("systemctl start agentd");
    dark.until("the manager has tidied up", |dark| {
        let status = dark.status();
        status.trial.is_none() && status.altered.is_none() && status.mode == Mode::Tunnel
    });
}

/// What brings the requests now: started by agentd, outlives the manager, and opens nothing.
fn with_a_tunnel(dark: &Dark) {
    dark.host.put("/srv/cloudflared/cloudflared", include_str!("../apps/cloudflared.py"));
    dark.host.put("/srv/cloudflared/cf/control.json", "{\"connections\": 4}");
    dark.host.must("chmod 755 /srv/cloudflared/cloudflared; chmod 777 /srv/cloudflared/cf");
    dark.host.must("install -m 600 /dev/null /etc/agentd/tunnel.token && echo c2VjcmV0 >/etc/agentd/tunnel.token");
    dark.host.must(
        "printf '[tunnel]\\nprogram = \"/srv/cloudflared/cloudflared\"\\ntoken_file = \"/etc/agentd/tunnel.token\"\\n' \
         >>/etc/agentd/agentd.toml; systemctl restart agentd",
    );
    let tunnel = |dark: &Dark| {
        dark.host.run("agentctl status").stdout.lines().find(|line| line.contains("tunnel:")).map(str::to_owned)
    };
    let is = |dark: &Dark, word: &str| tunnel(dark).is_some_and(|line| line.contains(word));
    dark.until("the tunnel is connected", |dark| is(dark, "connected"));
    let pid = dark.host.must("pgrep --full /srv/[c]loudflared/cloudflared");
    dark.host.must("systemctl restart agentd");
    dark.until("the tunnel is connected", |dark| is(dark, "connected"));
    assert_eq!(dark.host.must("pgrep --full /srv/[c]loudflared/cloudflared"), pid, "it outlives the manager");
    let before = dark.table();
    dark.host.put("/srv/cloudflared/cf/control.json", "{\"connections\": 0}");
    dark.until("the tunnel is lost", |dark| !is(dark, "connected"));
    say(&format!("without a connection: {}", tunnel(dark).unwrap_or_default()));
    assert_eq!(dark.table(), before);
    assert!(!dark.gets_in(22) && !dark.gets_in(9000) && !dark.udp_answers());
    dark.host.put("/srv/cloudflared/cf/control.json", "{\"connections\": 4}");
    dark.until("the tunnel is connected", |dark| is(dark, "connected"));
}

/// C5: from before the uplink is there, nothing gets in.
fn booted(dark: &mut Dark) {
    let storm = dark.reboot_in_a_storm();
    let callers = dark.callers();
    // The status is from the last look, and the first came before most of the storm.
    dark.until("what was dropped is told", |dark| dark.status().drops.input > 100);
    let status = dark.status();
    say(&format!("boot in tunnel: storm {storm}, {callers} reached the listeners, {} dropped", status.drops.input));
    assert!(storm["sent"].as_u64().unwrap() > 1_000, "control: there was one");
    assert_eq!((callers, &storm["answers"]), (0, &serde_json::json!(0)));
    dark.host.must("systemctl is-active agentd-firewall");
    dark.answers();
    is_dark(dark);
    assert_eq!((status.mode, status.exposure), (Mode::Tunnel, Exposure::None));
    assert_eq!(dark.status().repairs, 0, "boot had loaded what was confirmed");
}

/// T2.
fn glass_broken(dark: &Dark) {
    let start = Instant::now();
    dark.host.must(&format!("agentctl security open --ssh {OUTSIDE_V4}/32 --for 5s"));
    let said = dark.ssh(OUTSIDE_V4, "echo in");
    assert_eq!((said.code, said.stdout.trim()), (0, "in"), "{said:?}");
    assert_ne!(dark.ssh(STRANGER_V4, "true").code, 0, "from there only");
    dark.host.must("systemctl kill --signal KILL agentd; systemctl stop agentd");
    dark.until("the kernel shuts it", |dark| !dark.gets_in(22));
    let took = start.elapsed();
    say(&format!("SSH let in for 5 s was shut after {:.1} s, with the manager dead", took.as_secs_f32()));
    assert!(took > Duration::from_secs(4));
    dark.host.must("systemctl start agentd");
}

fn removed(dark: &Dark, before: &str) {
    dark.host.must("sh /var/tmp/agentd/install.sh --uninstall --purge --yes");
    assert_eq!(dark.table(), None);
    let found = dark.scan_both();
    assert_eq!((&found.open[..], found.closed), (&CARELESS[..], PORTS - 3));
    assert!(dark.udp_answers() && dark.pings());
    assert_eq!(difference(before, &dark.host.record()), [""; 0], "nothing is left");
}
