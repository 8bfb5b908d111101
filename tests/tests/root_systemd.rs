//! The system service on a real systemd host: package, units, restarts, upgrades, shutdown, removal.

use agentd_tests::host::{HOST_V4, HOST_V6, Host, Load, Outcome, Package, Uplink};
use agentd_tests::web;

/// Where the service says when it was asked to end; its DATA_DIR.
const DATA: &str = "/var/lib/agentd/services/api/data";
const URL: &str = "http://127.0.0.1:8080/";

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

/// Pids of service, proxy, shims and keeper: whatever a manager must leave alone.
fn workload(host: &Host) -> String {
    host.must("cat $(find /sys/fs/cgroup -path '*agentd-apps.scope*' -name cgroup.procs) | sort -n")
}

fn manager(host: &Host) -> String {
    host.must("systemctl show --property MainPID --value agentd")
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
    assert!(before.lines().count() >= 4, "keeper, two shims, proxy and service: {before}");
    let load = Load::start(&host, URL);

    let mut last = manager(&host);
    let mut restarted = |how: &str| {
        host.must(how);
        host.until(
            "another manager runs",
            &format!(
                "systemctl is-active --quiet agentd && [ \"$(systemctl show -p MainPID --value agentd)\" != {} ]",
                last.trim()
            ),
        );
        host.until("it answers", "agentctl status >/dev/null");
        last = manager(&host);
    };
    restarted("systemctl restart agentd");
    restarted("kill -KILL $(systemctl show --property MainPID --value agentd)");
    restarted("kill -TERM $(systemctl show --property MainPID --value agentd)");
    let next = Package::build("+2");
    next.install(&host);
    restarted("true");
    // The same program under another version: nothing to restart.
    next.again("+3").install(&host);
    assert_eq!(manager(&host), last);

    // What the keeper was killed for is born in the scope again.
    assert_eq!(workload(&host), before, "pids of everything that runs");
    host.must("systemctl stop agentd");
    assert_eq!(workload(&host), before);
    host.must("journalctl --unit agentd --grep 'services, edge and keeper run on'");
    all_answered(&load.end());
    host.must("systemctl start agentd");
}
