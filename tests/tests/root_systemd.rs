//! The system service on a real systemd host: package, units, restarts, upgrades, shutdown, removal.

use std::collections::BTreeSet;
use std::io::Write;

use agentd_tests::host::{HOST_V4, HOST_V6, Host, Load, Outcome, Package, Uplink, difference};
use agentd_tests::web;

/// Where the service says when it was asked to end; its DATA_DIR.
const DATA: &str = "/var/lib/agentd/services/api/data";
const URL: &str = "http://127.0.0.1:8080/";

/// For the log: figures.
fn say(text: &str) {
    // A closed stderr is no failure of the host's.
    let _ = writeln!(std::io::stderr(), "{text}"); // see above
}

/// Whether somebody accepts on the host's port, asked from outside.
fn reaches(host: &Host, address: &str, port: u16) -> bool {
    let connect = format!("import socket; socket.create_connection(('{address}', {port}), 1)");
    host.outside(&format!("python3 -c \"{connect}\"")).code == 0
}

/// A repository on the host, and a stack file that runs it.
fn place_stack(host: &Host) {
    let noted = "open(os.path.join(os.environ['DATA_DIR'], 'asked-to-end'), 'a').write(f'{time.time()}\\n')";
    host.put("/srv/api/web.py", &web("v1").replace("print(\"stopping\", flush=True)", noted));
    host.must(
        "cd /srv/api && git init --quiet --initial-branch=main && git add --all && \
         git -c user.name=t -c user.email=t@example.com commit --quiet --message one",
    );
    host.put(
        "/etc/agentd/stack.toml",
        "schema = 1\n[stack]\nname = \"test\"\npoll_interval = \"5s\"\n[proxy]\nport = 8080\n\
         [[service]]\nname = \"api\"\nrepo = \"file:///srv/api\"\nref = \"main\"\nrun = \"python3 web.py\"\n\
         path = \"/\"\nhealth = { path = \"/healthz\" }\n",
    );
}

/// A host with the package and a service that answers.
fn serving(package: &Package) -> Host {
    let host = Host::new();
    package.install(&host);
    place_stack(&host);
    host.must("systemctl start agentd");
    answers(&host);
    host
}

fn answers(host: &Host) {
    host.until("the service answers", &format!("curl --silent --fail {URL} >/dev/null"));
}

/// Pids of service, proxy, shims and keeper: whatever a manager of the same program must leave alone.
fn workload(host: &Host) -> BTreeSet<String> {
    pids(host, "cat $(find /sys/fs/cgroup -path '*agentd-apps.scope*' -name cgroup.procs)")
}

/// Of them the proxy and its shim: a manager of another program starts the two anew.
fn proxy(host: &Host) -> BTreeSet<String> {
    pids(host, "for pid in $(pgrep --euid agentd-edge); do ps -o pid=,ppid= -p $pid; done")
}

/// Waits until one proxy runs, and it is none of these.
fn another_proxy(host: &Host, old: &BTreeSet<String>) {
    let old = Vec::from_iter(old.iter().map(String::as_str)).join(" ");
    let one = format!("pid=$(pgrep --euid agentd-edge) && ! echo {old} | grep --word-regexp --quiet $pid");
    host.until("one proxy runs", &format!("[ $(pgrep --euid agentd-edge --count) = 1 ] && {one}"));
}

fn pids(host: &Host, command: &str) -> BTreeSet<String> {
    host.must(command).split_whitespace().map(str::to_owned).collect()
}

fn manager(host: &Host) -> String {
    host.must("systemctl show --property MainPID --value agentd")
}

/// Waits until another manager serves than before.
fn replaced(host: &Host, how: impl FnOnce() -> String) {
    let before = manager(host);
    how();
    let pid = "$(systemctl show --property MainPID --value agentd)";
    let serves = format!("systemctl is-active --quiet agentd && [ {pid} != {} ] && agentctl status", before.trim());
    host.until("another manager serves", &serves);
}

fn all_answered(outcome: &Outcome) {
    assert!(outcome.failures.is_empty() && outcome.answered > 100, "{outcome:?}");
}

#[test]
fn a_host_boots_stops_and_boots_again() {
    let mut host = Host::new();
    assert_eq!(host.must("cat /proc/1/comm").trim(), "systemd");
    assert!(reaches(&host, HOST_V4, 22) && reaches(&host, HOST_V6, 22));
    host.plug(Uplink::Down);
    assert!(!reaches(&host, HOST_V4, 22));
    host.must("echo kept >/var/lib/kept; echo lost >/run/lost");
    host.stop();
    host.boot_with(Uplink::Down);
    assert_eq!(host.must("cat /var/lib/kept; ls /run/lost || true").trim(), "kept");
    assert!(!reaches(&host, HOST_V4, 22));
    host.cut_power();
    host.boot();
    assert!(reaches(&host, HOST_V4, 22));
}

#[test]
fn no_request_is_lost_while_the_manager_restarts_dies_and_is_upgraded() {
    let package = Package::build("+1");
    let host = serving(&package);
    let before = workload(&host);
    assert!(before.len() >= 5, "keeper, two shims, proxy and service: {before:?}");
    let load = Load::start(&host, URL);

    let main_pid = "$(systemctl show --property MainPID --value agentd)";
    replaced(&host, || host.must("systemctl restart agentd"));
    replaced(&host, || host.must(&format!("kill -KILL {main_pid}")));
    replaced(&host, || host.must(&format!("kill -TERM {main_pid}")));
    assert_eq!(workload(&host), before, "pids of everything that runs");

    let first_proxy = proxy(&host);
    assert!(first_proxy.len() == 2 && first_proxy.is_subset(&before), "{first_proxy:?} of {before:?}");
    let next = Package::build("+2");
    replaced(&host, || next.install(&host));
    // Its proxy takes over on the same sockets, and the old one ends.
    another_proxy(&host, &first_proxy);
    let upgraded = workload(&host);
    assert!(proxy(&host).is_disjoint(&first_proxy), "{first_proxy:?}");
    assert_eq!(&upgraded - &proxy(&host), &before - &first_proxy, "pids of all but the proxy");
    // The same program under another version: nothing to restart.
    let same = manager(&host);
    next.again("+3").install(&host);
    assert_eq!(manager(&host), same);
    // One that hangs is ended by its watchdog.
    host.put("/run/systemd/system/agentd.service.d/quick.conf", "[Service]\nWatchdogSec=2s\n");
    replaced(&host, || host.must("systemctl daemon-reload && systemctl restart agentd"));
    replaced(&host, || host.must(&format!("kill -STOP {main_pid}")));
    host.must("journalctl --unit agentd --grep 'Watchdog timeout'");

    another_proxy(&host, &BTreeSet::new());
    let kept = workload(&host);
    host.must("systemctl stop agentd");
    assert_eq!(workload(&host), kept);
    host.must("journalctl --unit agentd --grep 'services, edge and keeper run on'");
    all_answered(&load.end());
    host.must("systemctl start agentd");
}

#[test]
fn services_end_before_the_network_and_come_back_without_it() {
    let mut host = serving(&Package::build(""));
    host.must("systemctl enable --quiet agentd");
    host.stop();
    host.boot_with(Uplink::Down);
    ended_before_the_network(&host);
    host.must("journalctl --boot -1 --unit agentd --grep 'taking everything down'");
    answers(&host);
    assert!(!reaches(&host, HOST_V4, 22), "the uplink is down");

    // Without the manager there is no drain, and still an order.
    host.must("systemctl stop agentd");
    host.stop();
    host.boot();
    ended_before_the_network(&host);
    host.must("journalctl --boot -1 --unit agentd-drain --grep 'agentd does not run'");
    answers(&host);

    host.cut_power();
    host.boot();
    assert_eq!(host.run(&format!("cat {DATA}/asked-to-end")).stdout, "", "nobody asked");
    answers(&host);
}

/// An uplink that is up, and somebody who waits for more.
const SLOW: &str = "\
[Unit]
DefaultDependencies=no
After=network.target
Before=network-online.target
[Service]
Type=oneshot
ExecStart=/bin/sleep 6
[Install]
WantedBy=network-online.target
";

#[test]
fn who_waits_for_the_network_holds_nothing_back() {
    let mut host = serving(&Package::build(""));
    host.put("/etc/systemd/system/slow.service", SLOW);
    // Pulls it into every boot, as mounts from the network do.
    let patient = "[Unit]\nWants=network-online.target\nAfter=network-online.target\n[Service]\nType=oneshot\n\
                   RemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
    host.put("/etc/systemd/system/patient.service", patient);
    host.must("systemctl daemon-reload; systemctl enable --quiet agentd slow patient");
    host.stop();
    host.boot();
    let since_boot = |unit: &str| {
        let shown = host.must(&format!("systemctl show --property ActiveEnterTimestampMonotonic --value {unit}"));
        shown.trim().parse::<u64>().unwrap()
    };
    let (patient, agentd) = (since_boot("patient"), since_boot("agentd"));
    say(&format!("agentd is up {} ms before who waits for the network", patient.saturating_sub(agentd) / 1_000));
    assert!(agentd + 2_000_000 < patient, "agentd at {agentd} µs, the patient one at {patient} µs");
    assert!(since_boot("agentd-drain") < patient);
    answers(&host);
}

/// What `ufw status` says in the sandbox of a unit, less one of its words.
fn ufw_in(host: &Host, unit: &str, without: &str) -> String {
    let others =
        "Exec|Remain|Restart|Watchdog|NotifyAccess|Condition|SuccessExit|Wants|After|Before|PartOf|Reload|Conflicts";
    host.must(&format!(
        "sed -E -e '/^({others})/d' -e 's/[ =]{without}( |$)/ /' \
         -e 's|^Type=.*|Type=oneshot\\nExecStart=/usr/sbin/ufw status\\nStandardOutput=truncate:/var/tmp/said\\nStandardError=inherit|' \
         /usr/lib/systemd/system/{unit}.service >/run/systemd/system/probe.service; systemctl daemon-reload; \
         systemctl start probe || true; cat /var/tmp/said"
    ))
}

/// iptables-legacy asks the kernel through a raw socket, and ufw takes its failure for a firewall that is off.
#[test]
fn ufw_can_be_asked_from_within_the_units_whatever_its_iptables_is() {
    let host = Host::new();
    Package::build("").install(&host);
    host.must("sed -i -e 's/^IPT_SYSCTL=.*/IPT_SYSCTL=/' -e 's/^IPT_MODULES=.*/IPT_MODULES=/' /etc/default/ufw");
    for kind in ["legacy", "nft"] {
        host.must(&format!(
            "for family in iptables ip6tables; do update-alternatives --set $family /usr/sbin/$family-{kind}; done"
        ));
        host.must("ufw --force enable");
        for unit in ["agentd", "agentd-firewall"] {
            let said = ufw_in(&host, unit, "NOTHING");
            assert_eq!(said.trim(), "Status: active", "{kind}, {unit}");
        }
        if kind == "legacy" {
            let control = ufw_in(&host, "agentd", "CAP_NET_RAW") + &ufw_in(&host, "agentd-firewall", "AF_INET");
            assert_eq!(control.matches("can't initialize iptables table").count(), 2, "{control}");
        }
        host.must("ufw --force disable");
    }
}

/// Compares when the service was asked to end with when the uplink was taken down, and forgets both.
fn ended_before_the_network(host: &Host) {
    let seconds = |text: String| text.trim().parse::<f64>().unwrap_or_else(|error| panic!("{error}: `{text}`"));
    let service = seconds(host.must(&format!("head -n 1 {DATA}/asked-to-end && rm {DATA}/asked-to-end")));
    let network = seconds(host.must("cat /var/log/uplink-stopped"));
    assert!(service < network, "SIGTERM at {service}, the network went at {network}");
}

#[test]
fn a_shutdown_lasts_until_somebody_starts_agentd() {
    let host = serving(&Package::build(""));
    // A keeper that dies leaves its services in the scope; the next one joins them.
    let keeper = "$(pgrep --exact agentd-keeper)";
    let before = host.must(&format!("cat /proc/{keeper}/cgroup"));
    assert!(before.contains("/agentd-apps.scope"), "{before}");
    host.must(&format!("pgrep --exact agentd-keeper >/var/tmp/keeper; kill -KILL {keeper}"));
    host.until("another keeper runs", &format!("[ {keeper} != $(cat /var/tmp/keeper) ]"));
    assert_eq!(host.must(&format!("cat /proc/{keeper}/cgroup")), before);
    answers(&host);

    // Root and the group's members may call.
    host.must("useradd --groups agentd member && useradd stranger");
    host.must("runuser -u member -- agentctl status");
    let refused = host.run("runuser -u stranger -- agentctl status");
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("--groups agentd"), "{refused:?}");

    host.must("agentctl shutdown");
    host.until("the unit has ended", "[ $(systemctl show -p ActiveState --value agentd) = inactive ]");
    assert_eq!(host.run("pgrep agentd").stdout, "", "nothing of agentd runs");
    assert_eq!(host.must("systemctl show -p Result --value agentd").trim(), "success");
    let missed = host.run("agentctl status");
    assert_eq!(missed.code, 4);
    assert!(missed.stderr.contains("systemctl start agentd"), "{missed:?}");
    host.must("systemctl start agentd");
    answers(&host);
    host.must("agentctl doctor");
}

#[test]
fn nothing_is_left_after_removal() {
    let host = Host::new();
    let before = host.record();
    let package = Package::build("");
    package.install(&host);
    // Nothing starts without a stack file.
    assert_eq!(host.run("systemctl start agentd; systemctl is-active agentd").stdout.trim(), "inactive");
    assert_ne!(host.record(), before, "the comparison sees the package");
    assert!(host.must("systemctl show -p Before agentd-firewall").contains("network-pre.target"));
    host.must("systemctl is-enabled agentd-firewall");
    assert!(package.is_same_as(&package.again("")), "the same input gives the same bytes");
    place_stack(&host);
    host.must("systemctl enable --quiet --now agentd");
    answers(&host);
    scores(&host);
    host.must("dpkg --remove agentd 2>&1");
    assert_eq!(host.run("pgrep agentd; ls -d /sys/fs/cgroup/system.slice/agentd*").stdout, "");
    host.must("[ -e /etc/agentd/stack.toml ] && [ -e /var/lib/agentd/agentd.db ]");
    host.must("dpkg --purge agentd 2>&1");
    assert_eq!(difference(&before, &host.record()), [""; 0]);
}

/// What systemd itself says of the units, lower is better (reference: docker 9.6).
fn scores(host: &Host) {
    for (unit, threshold) in [("agentd", 80), ("agentd-firewall", 30), ("agentd-drain", 30)] {
        let said = host.must(&format!(
            "systemd-analyze security --offline=true --threshold={threshold} --no-pager {unit}.service | tail -n 1"
        ));
        say(said.trim());
    }
    host.must("systemd-analyze verify /usr/lib/systemd/system/agentd*.service");
}
