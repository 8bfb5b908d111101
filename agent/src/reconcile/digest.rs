//! What makes two releases the same build, the same program, or merely differently routed (pure).

use std::collections::BTreeMap;
use std::fmt::Write;

use agentd_protocol::stack::Service;
use sha2::{Digest, Sha256};

/// Same digest, same files after the build: nothing needs building again.
pub(super) fn build_digest(tree: &str, entry: &Service) -> String {
    hash(&[tree, entry.build.as_deref().unwrap_or(""), entry.dir.as_deref().unwrap_or("")])
}

/// Same digest, same running program: what differs beyond it is routed, probed or drained differently, and no
/// instance is replaced for it.
pub(super) fn program_digest(build_digest: &str, entry: &Service, user_env: &BTreeMap<String, String>) -> String {
    let port = entry.port.map(|port| port.to_string()).unwrap_or_default();
    let kind = format!("{:?}", entry.kind);
    let stop = format!("{:?} {}", entry.stop.signal, entry.stop.timeout);
    let restart = format!("{:?}", entry.restart);
    let health = serde_json::to_string(&entry.health).expect("a health section is plain JSON");
    let deadline = entry.start_deadline.to_string();
    let mut parts = vec![build_digest, &entry.run, &port, &kind, &stop, &restart, &health, &deadline];
    for (name, value) in user_env {
        parts.push(name);
        parts.push(value);
    }
    hash(&parts)
}

/// SHA-256 over length-prefixed parts, so that no two lists of parts read the same.
fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["a"]), hash(&["a"]));
        assert_eq!(hash(&[]).len(), 64);
    }
}
