//! Which ports SSH listens on, and which connections are under way: read off the sockets of this network namespace.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use agentd_sys::listeners::{Socket, Transport, established_in, holders_in, listening_in, name_in};

use super::Session;
use super::facts::Sources;

const SSH_SERVERS: &[&str] = &["sshd", "dropbear"];
const SERVICE_MANAGER: u32 = 1;
const ROOT: u32 = 0;

/// Units that listen for sshd, under the names distributions give them.
const SSH_SOCKET_UNITS: &[&str] = &["ssh.socket", "sshd.socket", "dropbear.socket"];
/// Where units and their drop-ins lie, most important first.
const UNIT_DIRS: &[&str] = &[
    "etc/systemd/system",
    "run/systemd/system",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Set in 0.1 s and listed in 0.8 MB (IPv4, nft 1.0.6); those to a port listened on are kept first.
const SURVIVORS_MAX: usize = 8192;

/// Root's own servers on addresses that others can reach: a user may call any program sshd. None while it restarts.
pub(super) fn ssh_ports(sources: &Sources) -> BTreeSet<u16> {
    let sockets: Vec<Socket> = listening_in(&sources.proc, Transport::Tcp)
        .into_iter()
        .filter(|socket| socket.uid == ROOT && !socket.address.ip().to_canonical().is_loopback())
        .collect();
    let holders = holders_in(&sources.proc, &sockets.iter().map(|socket| socket.inode).collect());
    let announced = announced(&sources.root);
    let serves_ssh = |socket: &&Socket| {
        holders.get(&socket.inode).into_iter().flatten().any(|pid| {
            SSH_SERVERS.contains(&name_in(&sources.proc, *pid).as_str())
                || (*pid == SERVICE_MANAGER && announced.contains(&socket.address.port()))
        })
    };
    sockets.iter().filter(serves_ssh).map(|socket| socket.address.port()).collect()
}

/// Ports that socket units name for SSH. Whether the service manager listens on them, the sockets say.
fn announced(root: &Path) -> BTreeSet<u16> {
    let dirs = UNIT_DIRS.iter().map(|dir| root.join(dir));
    let files = dirs.flat_map(|dir| {
        SSH_SOCKET_UNITS.iter().flat_map(move |unit| {
            let drop_ins = std::fs::read_dir(dir.join(format!("{unit}.d"))).into_iter().flatten().flatten();
            drop_ins.map(|entry| entry.path()).chain([dir.join(unit)]).collect::<Vec<_>>()
        })
    });
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.flat_map(|text| text.lines().filter_map(port_listened).collect::<Vec<_>>()).collect()
}

/// `ListenStream=22`, `=0.0.0.0:22` or `=[::]:22` (systemd.socket(5)).
fn port_listened(line: &str) -> Option<u16> {
    let (key, value) = line.split_once('=')?;
    let port = value.trim().rsplit(':').next()?;
    (key.trim() == "ListenStream").then(|| port.parse().ok())?
}

/// Connections to keep: with other hosts, whoever opened them (P7).
pub(super) fn survivors(sources: &Sources) -> BTreeSet<Session> {
    let listened: BTreeSet<u16> =
        listening_in(&sources.proc, Transport::Tcp).iter().map(|socket| socket.address.port()).collect();
    let (mut kept, others): (Vec<Session>, Vec<Session>) = established_in(&sources.proc)
        .iter()
        .map(|socket| Session { local: plain(socket.address), peer: plain(socket.peer) })
        .filter(|session| !session.local.ip().is_loopback() && !session.peer.ip().is_loopback())
        .partition(|session| listened.contains(&session.local.port()));
    kept.extend(others);
    kept.truncate(SURVIVORS_MAX);
    kept.into_iter().collect()
}

/// A socket of both families has IPv4 peers in IPv6's clothes; on the wire and in rules they are IPv4.
fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const HEAD: &str = "  sl  local_address rem_address st\n";

    fn row(local: &str, peer: &str, state: &str, uid: u32, inode: u64) -> String {
        format!("   0: {local} {peer} {state} 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1 0\n")
    }

    /// A host of its own: sockets, and the processes that hold them.
    fn host(v4: &[String], v6: &[String], processes: &[(u32, &str, u64)]) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path().join("proc");
        fs::create_dir_all(proc.join("self/net")).unwrap();
        fs::write(proc.join("self/net/tcp"), HEAD.to_owned() + &v4.concat()).unwrap();
        fs::write(proc.join("self/net/tcp6"), HEAD.to_owned() + &v6.concat()).unwrap();
        for (pid, name, inode) in processes {
            let fds = proc.join(format!("{pid}/fd"));
            fs::create_dir_all(&fds).unwrap();
            fs::write(proc.join(format!("{pid}/comm")), format!("{name}\n")).unwrap();
            symlink(format!("socket:[{inode}]"), fds.join("3")).unwrap();
        }
        let sources = Sources { proc, sys: dir.path().join("sys"), root: dir.path().to_owned() };
        (dir, sources)
    }

    #[test]
    fn ssh_is_where_roots_server_listens() {
        let any = "00000000:0000";
        let (_dir, sources) = host(
            &[
                row("00000000:08AE", any, "0A", 0, 10),
                row("00000000:1F90", any, "0A", 1000, 11),
                row("0100007F:0017", any, "0A", 0, 12),
                row("00000000:0050", any, "0A", 0, 13),
            ],
            &[row("00000000000000000000000000000000:08AE", "00000000000000000000000000000000:0000", "0A", 0, 14)],
            // The second is a user's program of that name, the third listens on loopback alone.
            &[(70, "sshd", 10), (71, "sshd", 11), (72, "dropbear", 12), (73, "nginx", 13), (74, "sshd", 14)],
        );
        assert_eq!(ssh_ports(&sources), BTreeSet::from([2222]));
    }

    #[test]
    fn the_service_manager_listens_for_ssh_where_its_units_say() {
        let any = "00000000:0000";
        let rows = [row("00000000:0016", any, "0A", 0, 10), row("00000000:0869", any, "0A", 0, 11)];
        let (dir, mut sources) = host(&rows, &[], &[(1, "systemd", 11)]);
        let drop_ins = dir.path().join("run/systemd/generator/ssh.socket.d");
        fs::create_dir_all(&drop_ins).unwrap();
        fs::write(drop_ins.join("addresses.conf"), "[Socket]\nListenStream=\nListenStream=0.0.0.0:2153\n").unwrap();
        assert_eq!(ssh_ports(&sources), BTreeSet::from([2153]));
        sources.root = dir.path().join("elsewhere");
        assert_eq!(ssh_ports(&sources), BTreeSet::new(), "nobody guesses here");
    }

    #[test]
    fn connections_with_other_hosts_survive() {
        let peer6 = "B80D0120020000000000000020000000";
        let local6 = "B80D0120010000000000000010000000";
        let (_dir, sources) = host(
            &[
                row("00000000:0016", "00000000:0000", "0A", 0, 1),
                row("0A7100CB:0016", "146433C6:9C40", "01", 0, 2),
                row("0A7100CB:C001", "146433C6:01BB", "01", 0, 3),
                row("0100007F:0016", "0100007F:9C40", "01", 0, 4),
                row("0A7100CB:0016", "146433C6:9C41", "06", 0, 0),
            ],
            &[
                row("0000000000000000FFFF00000A7100CB:0016", "0000000000000000FFFF0000146433C6:9C42", "01", 0, 5),
                row(&format!("{local6}:0016"), &format!("{peer6}:9C43"), "01", 0, 6),
            ],
            &[],
        );
        let found: Vec<String> =
            survivors(&sources).iter().map(|session| format!("{} {}", session.local, session.peer)).collect();
        assert_eq!(
            found,
            [
                "203.0.113.10:22 198.51.100.20:40000",
                "203.0.113.10:22 198.51.100.20:40002",
                "203.0.113.10:49153 198.51.100.20:443",
                "[2001:db8:0:1::10]:22 [2001:db8:0:2::20]:40003",
            ]
            .map(str::to_owned)
        );
    }
}
