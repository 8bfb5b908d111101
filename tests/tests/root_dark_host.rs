//! The whole of docs/security-modes.md on one real host, installed as a user would, from open to dark and back.

mod dark;

use std::time::{Duration, Instant};

use agentd_protocol::security::{Exposure, Mode};
use agentd_tests::host::{Load, OUTSIDE_V4, OUTSIDE_V6, Package};
use dark::{Dark, STRANGER_V4, STRANGER_V6, URL, difference, say};

const INSTALL: &str = "sh /var/tmp/agentd/install.sh --offline /var/tmp/agentd";
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
}

fn stage(begun: &Instant, what: &str) {
    say(&format!("--- {:.1} s: {what}", begun.elapsed().as_secs_f32()));
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
    dark.record()
}

fn installed(dark: &Dark, before: &str) {
    let package = Package::build("+1");
    package.publish(&dark.host, "/var/tmp/agentd");
    say(&format!("package: {} bytes", dark.host.must("stat --format %s /var/tmp/agentd/*.deb").trim()));
    let plan = dark.host.must(&format!("{INSTALL} --stack /var/tmp/stack.toml --mode tunnel --dry-run"));
    assert!(plan.contains("nothing was changed") && plan.contains("\"nftables\""), "{plan}");
    assert_eq!(difference(before, &dark.record()), [""; 0], "a dry run changes nothing");
    let start = Instant::now();
    dark.host.must(&format!("{INSTALL} --stack /var/tmp/stack.toml --yes"));
    say(&format!("install: {:.1} s", start.elapsed().as_secs_f32()));
    dark.answers();
    say(&format!("install until the service answers: {:.1} s", start.elapsed().as_secs_f32()));
    assert_ne!(difference(before, &dark.record()), [""; 0], "control: the records see a package");
    let status = dark.status();
    assert_eq!((status.mode, status.exposure), (Mode::Open, Exposure::Unmanaged));
    assert_eq!(
        dark.scan(OUTSIDE_V4, agentd_tests::host::HOST_V4).open,
        [22, 8080, 8081, 9000],
        "open: as found, and the proxy"
    );
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
        (OUTSIDE_V4, agentd_tests::host::HOST_V4, &[22, 8080][..]),
        (OUTSIDE_V6, agentd_tests::host::HOST_V6, &[22, 8080]),
        (STRANGER_V4, agentd_tests::host::HOST_V4, &[8080]),
        (STRANGER_V6, agentd_tests::host::HOST_V6, &[8080]),
    ] {
        let found = dark.scan(from, to);
        assert_eq!((&found.open[..], found.closed), (open, 0), "from {from}");
    }
    assert!(dark.serves_outside(agentd_tests::host::HOST_V4) && dark.serves_outside("[2001:db8:1::2]"));
    assert!(!dark.udp_answers() && dark.pings() && dark.reaches_outside());
    assert_eq!(dark.callers(), 0);
    assert_ne!(dark.ssh(STRANGER_V4, "true").code, 0);
}
