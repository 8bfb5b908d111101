//! A shell script in ufw's place.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Ufw;

/// Adds and deletes tuples as ufw does for rules of one family: by key, prepended or appended; says 0 to everything.
const FAKE: &str = r####"#!/bin/sh
cd "@DIR@" || exit 1
echo "$*" >> orders
[ "$1" = status ] && { cat status; exit 0; }
[ -e deaf ] && { echo "Skipping inserting existing rule"; exit 0; }
order=append
case "$1" in prepend) order=prepend; shift;; delete) order=delete; shift;; esac
from=$5; port=$9; comment=${11}
case "$from" in *:*) file=user6.rules; any=::/0;; *) file=user.rules; any=0.0.0.0/0;; esac
key="tcp $port $any any $from in"
hex=$(printf %s "$comment" | od -An -tx1 | tr -d ' \n')
grep -v "^### tuple ### [a-z]* $key" $file > rest
line="### tuple ### allow $key${hex:+ comment=$hex}"
case $order in
  append) { cat rest; echo "$line"; } > $file;;
  prepend) { echo "$line"; cat rest; } > $file;;
  delete) cat rest > $file;;
esac
"####;

pub(in crate::firewall) struct World {
    pub(in crate::firewall) dir: tempfile::TempDir,
    pub(in crate::firewall) ufw: Ufw,
    pub(in crate::firewall) journal_path: PathBuf,
}

/// An active one with these rules for IPv4.
pub(in crate::firewall) fn world(rules: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("user.rules"), rules).unwrap();
    std::fs::write(at("user6.rules"), "").unwrap();
    std::fs::write(at("defaults"), "# IPV6=no\nIPV6=yes\n").unwrap();
    std::fs::write(at("status"), "Status: active\n").unwrap();
    std::fs::write(at("ufw"), FAKE.replace("@DIR@", &dir.path().display().to_string())).unwrap();
    std::fs::set_permissions(at("ufw"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ufw = Ufw { program: at("ufw"), rules: [at("user.rules"), at("user6.rules")], defaults: at("defaults") };
    let journal_path = at("firewall/journal.json");
    World { ufw, journal_path, dir }
}

impl World {
    pub(in crate::firewall) fn rules(&self) -> String {
        self.ufw.rules.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }
}
