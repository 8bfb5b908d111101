//! What a host is like, to be compared with what it was like before.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Host;

const RECORDS: [(&str, &str); 6] = [
    ("rules", "nft --stateless list ruleset"),
    ("ufw", "sha256sum /etc/ufw/* /etc/default/ufw 2>/dev/null || [ $? = 1 ]"),
    // The backups that useradd(8) and userdel(8) leave are theirs.
    (
        "/etc",
        "find /etc -type f ! -name 'passwd-' ! -name 'group-' ! -name 'shadow-' ! -name 'gshadow-' ! -name ld.so.cache -exec sha256sum {} + | sort -k 2; \
      find /etc -type l -printf '%p -> %l\\n' | sort",
    ),
    (
        "units",
        "systemctl list-unit-files --no-legend --no-pager | tr --squeeze-repeats ' '; systemctl list-units --all --no-legend --plain --no-pager 'agentd*'",
    ),
    ("listens", "ss --listening --tcp --udp --numeric --no-header | awk '{print $1, $5}' | sort"),
    (
        "files",
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /root -o -path /srv -o -path /tmp -o -path /var/tmp \
      -o -path /var/lib/dpkg -o -path /var/log/journal -o -path /var/log/dpkg.log -o -path /var/cache -o -path /var/lib/systemd \
      -o -path /var/lib/apt -o -path /var/log/apt \\) -prune -o -print | sort; ls -d /run/agentd* 2>/dev/null || true",
    ),
];

/// Lines of one record that the other has not, and the other way round.
pub fn difference<'a>(before: &'a str, after: &'a str) -> Vec<&'a str> {
    let [before, after]: [BTreeSet<&str>; 2] = [before.lines().collect(), after.lines().collect()];
    after.symmetric_difference(&before).copied().collect()
}

impl Host {
    /// Everything that must be as it was when agentd is gone.
    pub fn record(&self) -> String {
        let mut told = String::new();
        for (what, command) in RECORDS {
            for line in self.must(command).lines() {
                writeln!(told, "{what}: {line}").unwrap();
            }
        }
        told
    }
}
