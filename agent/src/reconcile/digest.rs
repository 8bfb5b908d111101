//! What makes two releases the same build, the same program, or merely differently routed (pure).

use agentd_protocol::stack::Service;

use crate::store::Digest;

/// Same digest, same files after the build: nothing needs building again.
pub(super) fn build_digest(tree: &str, entry: &Service) -> Digest {
    digest(&[tree, entry.build.as_deref().unwrap_or(""), entry.dir.as_deref().unwrap_or("")])
}

/// Same digest, same running program. What differs beyond it is routed, scaled or drained differently, and no instance
/// is replaced for it. `entry.env` is the complete environment of the user's, env_file included.
pub(super) fn program_digest(build: Digest, entry: &Service) -> Digest {
    let settings = (
        (build.to_string(), &entry.run, entry.port, entry.kind, &entry.env),
        (&entry.root, &entry.fallback),
        (&entry.stop, entry.restart, &entry.health, entry.start_deadline),
    );
    Digest::of(serde_json::to_string(&settings).expect("settings are plain JSON").as_bytes())
}

/// Over length-prefixed parts, so that no two lists of parts read the same.
fn digest(parts: &[&str]) -> Digest {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&part.len().to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["a"]), digest(&["a"]));
    }
}
