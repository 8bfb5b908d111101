//! What the last rule of a chain says about the whole: mode and revision.

use std::fmt;

use agentd_protocol::security::Mode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names what rules say, survivors and timers aside: 16 hexadecimal digits of a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub String);

/// Enough to tell revisions of one host apart, and short enough to be read out.
const REVISION_BYTES: usize = 8;

impl Revision {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        Self(digest.iter().take(REVISION_BYTES).map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub mode: Mode,
    pub revision: Revision,
}

impl Stamp {
    /// From a rule's comment; `None` where it carries none.
    pub fn find(comment: &str) -> Option<Self> {
        let word = |key: &str| comment.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        Some(Self { mode: Mode::parse(word("mode")?)?, revision: Revision(word("rev")?.to_owned()) })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode={} rev={}", self.mode, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let stamp = Stamp { mode: Mode::DaemonPort, revision: Revision::of(b"rules") };
        assert_eq!(stamp.revision.0.len(), 16);
        assert_eq!(Stamp::find(&format!("D1 drop; {stamp}")), Some(stamp));
        assert_eq!(Stamp::find("mode=tunnel"), None);
        assert_eq!(Stamp::find("mode=shut rev=0"), None);
    }
}
