//! install.sh and the scripts of the package on real hosts: what they say is what they do, and what they leave is named.

use std::process::Child;
use std::time::Instant;

use agentd_protocol::api::SecurityStatus;
use agentd_protocol::security::Mode;
use agentd_tests::host::{Host, OUTSIDE_V4, Package, difference};
use agentd_tests::web;

const INSTALL: &str = "sh /var/tmp/agentd/install.sh --offline /var/tmp/agentd";
const UNINSTALL: &str = "sh /var/tmp/agentd/install.sh --uninstall --yes";
/// The machine outside is no internet: it refuses.
const OFFLINE: &str = "--without-check dns --without-check outbound-ipv4 --without-check outbound-ipv6";
/// A service's fixed port stands before the proxy's: nobody may take the one for the other.
const STACK: &str = "\
schema = 1
[[service]]
port = 7777
name = \"api\"
repo = \"file:///srv/api\"
ref = \"main\"
run = \"python3 web.py\"
path = \"/\"
health = { path = \"/healthz\" }
[stack]
name = \"test\"
[proxy]
port = 8080
";

/// A host with everything there is to be installed, and nothing installed.
fn prepared() -> Host {
    let host = Host::new();
    Package::build("").publish(&host, "/var/tmp/agentd");
    host.put("/srv/api/web.py", &web("v1"));
    host.must(
        "cd /srv/api && git init --quiet --initial-branch=main && git add --all && \
         git -c user.name=t -c user.email=t@example.com commit --quiet --message one",
    );
    host.put("/var/tmp/stack.toml", STACK);
    host.put("/etc/resolv.conf", &format!("nameserver {OUTSIDE_V4}\n"));
    host
}

fn answers(host: &Host) {
    host.until("the service answers", "curl --silent --fail http://127.0.0.1:8080/ >/dev/null");
}

fn security(host: &Host) -> SecurityStatus {
    serde_json::from_str(&host.run("agentctl security status --json").stdout).unwrap()
}

fn has_table(host: &Host) -> bool {
    host.run("nft list table inet agentd").code == 0
}

fn say(text: &str) {
    use std::io::Write as _;
    // A closed stderr is no failure of the host's.
    let _ = writeln!(std::io::stderr(), "{text}"); // see above
}

#[test]
fn the_installer_shows_asks_does_and_is_done() {
    let host = prepared();
    let before = host.record();
    let install = format!("{INSTALL} --stack /var/tmp/stack.toml");

    let plan = host.must(&format!("{install} --dry-run"));
    for step in ["install agentd 0", "matches SHA256SUMS", "copy /var/tmp/stack.toml", "start agentd", "nothing was"] {
        assert!(plan.contains(step), "{plan}");
    }
    assert!(!plan.contains("security mode") && !plan.contains("have apt fetch"), "{plan}");
    let unasked = host.run(&format!("setsid {install}"));
    assert!(unasked.code == 1 && unasked.stderr.contains("--yes"), "{unasked:?}");
    host.must("echo '[[service]]' >/var/tmp/wrong.toml");
    let wrong = host.run(&format!("{install} --stack /var/tmp/wrong.toml --yes"));
    assert!(wrong.code == 1 && wrong.stderr.contains("has mistakes"), "{wrong:?}");
    host.must("cp -r /var/tmp/agentd /var/tmp/forged && echo >>$(ls /var/tmp/forged/*.deb)");
    let forged = host.run(&format!("{install} --offline /var/tmp/forged --yes"));
    assert!(forged.code == 1 && forged.stderr.contains("does not match"), "{forged:?}");
    let open = host.must(&format!("{install} --mode open --dry-run"));
    assert!(open.contains("open is in force already") && !open.contains("on trial"), "{open}");
    for words in ["--mode shut", "--ssh 192.0.2.1", "--join there", "--mode"] {
        assert_eq!(host.run(&format!("{install} {words}")).code, 2, "{words}");
    }
    // Neither plan nor refusal changes anything.
    assert_eq!(difference(&before, &host.record()), [""; 0]);

    let start = Instant::now();
    host.must(&format!("setsid {install} --yes"));
    say(&format!(
        "install: {:.1} s, {} bytes",
        start.elapsed().as_secs_f32(),
        host.must("stat --format %s /var/tmp/agentd/*.deb").trim()
    ));
    answers(&host);
    assert_eq!((security(&host).mode, has_table(&host)), (Mode::Open, false), "nobody asked for another mode");
    let pid = "systemctl show --property MainPID --value agentd";
    let manager = host.must(pid);
    assert_eq!(host.must(&format!("{install} --yes")).trim(), "nothing to do");
    assert_eq!(host.must(pid), manager);
    host.must(&format!("{UNINSTALL} --purge"));
    assert_eq!(difference(&before, &host.record()), [""; 0]);
}

/// nft, but what it is given to apply is kept.
const WITNESS: &str = "\
#!/bin/sh
[ \"$*\" = '-j -f -' ] || exec /usr/sbin/nft.real \"$@\"
cat >/var/tmp/given.$$
cp /var/tmp/given.$$ /var/tmp/given/$(date +%s%N)
exec /usr/sbin/nft.real -j -f - </var/tmp/given.$$
";

#[test]
fn a_mode_is_put_on_trial_as_the_dry_run_showed_it() {
    let host = prepared();
    let owner = "[security]\nssh = [\"203.0.113.0/24\"]\nssh_interfaces = [\"wg0\"]\ntrusted_interfaces = [\"wg1\"]\n";
    host.put("/etc/agentd/policy.toml", owner);
    host.must("sed -i -e 's/^IPT_SYSCTL=.*/IPT_SYSCTL=/' -e 's/^IPT_MODULES=.*/IPT_MODULES=/' /etc/default/ufw");
    host.must("ufw --force enable");
    let before = host.record();
    let install = format!("{INSTALL} --stack /var/tmp/stack.toml --mode daemon-port {OFFLINE}");
    let ssh = format!("--ssh {OUTSIDE_V4} --ssh 192.0.2.7/24");

    let shown = host.must(&format!("{install} {ssh} --dry-run"));
    assert_eq!(difference(&before, &host.record()), [""; 0]);
    let rules = shown.lines().find(|line| line.starts_with("{\"nftables\"")).unwrap();
    for word in ["8080", "203.0.113.0", "192.0.2.0", "wg0", "wg1", "timeout"] {
        assert!(rules.contains(word), "{word}: {rules}");
    }
    assert!(!rules.contains("7777"), "the port of a service: {rules}");
    let told = shown.lines().filter(|line| line.contains("ufw would be told")).count();
    assert_eq!(told, 4, "the proxy, and SSH from three networks: {shown}");

    host.must("mkdir /var/tmp/given; mv /usr/sbin/nft /usr/sbin/nft.real");
    host.put("/usr/sbin/nft", WITNESS);
    host.must("chmod 755 /usr/sbin/nft");
    let said = host.must(&format!("{install} {ssh} --yes"));
    let given = host.must("cat \"$(ls -d /var/tmp/given/* | head -n 1)\"");
    assert_eq!(given, rules, "what nft was given is what was shown");
    host.must("mv /usr/sbin/nft.real /usr/sbin/nft");
    let comments = host.must("ufw status | grep --only-matching 'agentd:[a-z]*' | sort | uniq --count");
    assert_eq!(comments.split_whitespace().collect::<Vec<_>>(), ["2", "agentd:proxy", "3", "agentd:ssh"]);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("daemon-port is on trial for ") && last.contains("agentctl security confirm"), "{said}");

    let again = host.must(&format!("{install} {ssh} --yes"));
    assert!(again.contains("on trial already") && again.ends_with("nothing to do\n"), "{again}");
    host.must("agentctl security confirm");
    let again = host.must(&format!("{install} {ssh} --yes"));
    assert!(again.contains("in force already") && again.ends_with("nothing to do\n"), "{again}");
    // Another network is another step.
    let other = host.must(&format!("{install} --ssh 192.0.2.0/24 --window 30s --yes"));
    assert!(other.lines().last().unwrap().starts_with("daemon-port is on trial for "), "{other}");
    host.must("agentctl security revert");
    removed_and_back(&host, &before);
}

/// A plain removal leaves what it names and is no end: the next installation takes up what is left.
fn removed_and_back(host: &Host, before: &str) {
    let said = host.must(UNINSTALL);
    assert!(said.contains("kept: /etc/agentd, /var/lib/agentd and /var/log/agentd"), "{said}");
    let named = ["/etc/agentd", "/var/lib/agentd", "/var/log/agentd"];
    let after = host.record();
    let left = difference(before, &after);
    let unnamed: Vec<_> = left.iter().filter(|line| !named.iter().any(|name| line.contains(name))).collect();
    assert!(unnamed.is_empty(), "{unnamed:#?}");
    assert!(left.iter().any(|line| line.contains("agentd.db")), "control: data stays");
    assert_eq!(host.run("getent passwd | grep agentd; getent group | grep agentd; ls -d /run/agentd").stdout, "");
    let of_nobody =
        "find /etc/agentd /var/lib/agentd /var/log/agentd \\( -nouser -o -nogroup \\) ! -path '*/services/*'";
    assert_eq!(host.must(of_nobody), "", "no user that comes next inherits anything");

    host.must("DEBIAN_FRONTEND=noninteractive dpkg --install /var/tmp/agentd/*.deb");
    host.must("systemctl is-active agentd agentd-firewall && systemctl is-enabled agentd agentd-firewall");
    answers(host);
    host.must(&format!("{UNINSTALL} --purge"));
    // The owner's file was there before us, and goes with the folder.
    let after = host.record();
    let left = difference(before, &after);
    assert!(left.iter().all(|line| line.contains("/etc/agentd")), "{left:#?}");
}

/// Runs a command on a terminal and answers what it asks; ends as that ends.
const ASK: &str = "\
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp('sh', ['sh', '-c', sys.argv[1]])
answers = [word.split('=', 1) for word in sys.argv[2:]]
said = b''
while True:
    try:
        said += os.read(terminal, 4096)
    except OSError:
        break
    if answers and answers[0][0].encode() in said:
        os.write(terminal, answers.pop(0)[1].encode() + b'\\n')
        sys.stdout.write(said.decode()); said = b''
sys.stdout.write(said.decode() + '\\n' + ' '.join(question for question, _ in answers))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn on_a_terminal(host: &Host, command: &str, answers: &[&str]) -> Child {
    host.put("/var/tmp/ask.py", ASK);
    host.start(&[&["python3", "/var/tmp/ask.py", command], answers].concat())
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_person_is_asked_on_the_terminal() {
    let host = prepared();
    let before = host.record();
    let install = format!("{INSTALL} --stack /var/tmp/stack.toml {OFFLINE}");

    let (code, said) = ended(on_a_terminal(&host, &install, &["Mode [open]=", "Go on?=n"]));
    assert!(code == Some(1) && said.contains("nothing was changed"), "{said}");
    assert!(said.contains("start agentd") && !said.contains("security mode"), "to answer open is no step: {said}");
    let (code, said) = ended(on_a_terminal(&host, &install, &["Mode [open]=shut"]));
    assert!(code == Some(2) && said.contains("not one of"), "{said}");
    assert_eq!(difference(&before, &host.record()), [""; 0]);

    let network = format!("reach SSH={OUTSIDE_V4}/32");
    let asked = on_a_terminal(&host, &install, &["Mode [open]=daemon-port", &network, "Go on?=y"]);
    host.until("the mode is on trial", "agentctl security status --json | grep '\"tx\"'");
    host.must("agentctl security confirm");
    let (code, said) = ended(asked);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("on trial, with SSH from 198.51.100.1/32") && said.contains("done;"), "{said}");
    assert!(has_table(&host) && security(&host).mode == Mode::DaemonPort);
    // Decided is decided.
    let (code, said) = ended(on_a_terminal(&host, &install, &[]));
    assert!(code == Some(0) && said.contains("nothing to do") && !said.contains("Mode ["), "{said}");

    let (code, said) = ended(on_a_terminal(&host, &UNINSTALL.replace(" --yes", " --purge"), &["Go on?=y"]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(difference(&before, &host.record()), [""; 0]);
}

#[test]
fn what_goes_wrong_is_told_and_stops_no_package() {
    let host = prepared();
    // A firewall unit that cannot start.
    host.must("systemctl mask --quiet agentd-firewall");
    let installed = host.run("dpkg --install /var/tmp/agentd/*.deb");
    assert!(installed.code == 0 && installed.stderr.contains("agentd-firewall"), "{installed:?}");
    host.must("dpkg --purge agentd; systemctl unmask agentd-firewall");

    host.must(&format!("{INSTALL} --stack /var/tmp/stack.toml --yes"));
    answers(&host);
    upgrades_leave_the_firewall_alone(&host);
    doctor_names_what_is_missing(&host);

    // A removal that is called off after prerm.
    host.must("sh /var/lib/dpkg/info/agentd.prerm remove");
    assert_ne!(host.run("systemctl is-active agentd").code, 0, "control: prerm has stopped it");
    host.must("sh /var/lib/dpkg/info/agentd.postinst abort-remove");
    host.must("systemctl is-active agentd agentd-firewall && systemctl is-enabled agentd agentd-firewall");
    answers(&host);

    // A writer of /etc/hosts that was killed, and allows that cannot be taken back.
    host.must("echo half >/etc/.hosts.agentd");
    host.put("/var/lib/agentd/firewall/journal.json", "not ours");
    let removed = host.run(&format!("{UNINSTALL} --purge"));
    assert!(removed.code == 1 && removed.stderr.contains("ufw status"), "{removed:?}");
    assert_eq!(host.must("find /var/lib/agentd -type f").trim(), "/var/lib/agentd/firewall/journal.json");
    assert_eq!(host.run("dpkg-query --show agentd").stdout, "", "the package is gone all the same");
    assert_eq!(host.run("ls /etc/.hosts.agentd").stdout, "");
}

fn upgrades_leave_the_firewall_alone(host: &Host) {
    host.must("systemctl stop agentd-firewall");
    Package::build("+1").install(host);
    assert_eq!(host.run("systemctl is-active agentd-firewall").stdout.trim(), "inactive");
    host.must("systemctl is-active agentd");
    host.must("systemctl start agentd-firewall");
}

fn doctor_names_what_is_missing(host: &Host) {
    let away = ["/run/dbus/system_bus_socket", "/usr/bin/ssh", "/usr/bin/ip", "/etc/ssl/certs/ca-certificates.crt"];
    let names = ["system bus", "iproute2", "certificates", "openssh-client"];
    let amiss = |said: &str| said.lines().filter(|line| !line.starts_with("ok")).map(str::to_owned).collect::<String>();
    let well = amiss(&host.run("agentctl doctor").stdout);
    assert!(!names.iter().any(|name| well.contains(name)), "control: {well}");
    // A link to the other.
    host.must("rm -f /usr/sbin/ip");
    away.iter().for_each(|path| drop(host.must(&format!("mv {path} {path}.away"))));
    let ill = amiss(&host.run("agentctl doctor").stdout);
    away.iter().for_each(|path| drop(host.must(&format!("mv {path}.away {path}"))));
    assert!(names.iter().all(|name| ill.contains(name)), "{ill}");
}

#[test]
fn nothing_is_installed_without_what_it_needs() {
    let host = prepared();
    let before = host.record();
    host.must("dpkg --purge --force-depends ca-certificates 2>&1");
    let refused = host.run(&format!("{INSTALL} --yes"));
    assert!(refused.code == 1 && refused.stderr.contains("ca-certificates"), "{refused:?}");
    assert!(refused.stderr.contains("apt-get update"), "{refused:?}");
    assert_eq!(host.run("dpkg-query --show agentd").stdout, "");
    assert!(!difference(&before, &host.record()).iter().any(|line| line.contains("agentd")));
}
