//! The system service on a real systemd host: package, units, restarts, upgrades, shutdown, removal.

use agentd_tests::host::{HOST_V4, HOST_V6, Host, Uplink};

/// Whether somebody accepts on the host's port, asked from outside.
fn reaches(host: &Host, address: &str, port: u16) -> bool {
    let connect = format!("import socket; socket.create_connection(('{address}', {port}), 1)");
    host.outside(&format!("python3 -c \"{connect}\"")).code == 0
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
