//! ufw's files as a fresh package has them, for namespaces of a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies below `dir`, each with the place it is to be mounted over.
pub fn fresh(dir: &Path) -> [(PathBuf, &'static str); 2] {
    let copies = ["/etc/ufw", "/etc/default"].map(|place| {
        let copy = dir.join(place.trim_start_matches('/').replace('/', "-"));
        assert!(Command::new("cp").args(["-a", place]).arg(&copy).status().unwrap().success());
        (copy, place)
    });
    let [(ufw, _), (default, _)] = &copies;
    for name in ["user.rules", "user6.rules"] {
        fs::copy(Path::new("/usr/share/ufw/iptables").join(name), ufw.join(name)).unwrap();
    }
    // No module or sysctl of the machine is touched by `ufw enable`.
    let defaults = fs::read_to_string(default.join("ufw")).unwrap();
    let kept = defaults.lines().filter(|line| !["IPT_", "IPV6"].iter().any(|name| line.starts_with(name)));
    let text = kept.chain(["IPV6=yes", "IPT_SYSCTL=", "IPT_MODULES=\"\"", ""]).collect::<Vec<_>>().join("\n");
    fs::write(default.join("ufw"), text).unwrap();
    let conf = fs::read_to_string(ufw.join("ufw.conf")).unwrap();
    fs::write(ufw.join("ufw.conf"), conf.replace("ENABLED=yes", "ENABLED=no")).unwrap();
    copies
}
