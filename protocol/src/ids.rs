//! Names and numbers that identify things, as newtypes: a release number is never mistaken for a version.

use std::fmt;

/// A name that failed its rule; `rule` is a sentence fragment for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName {
    pub found: String,
    pub rule: &'static str,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.found, self.rule)
    }
}

impl std::error::Error for BadName {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "documents", derive(serde::Serialize, serde::Deserialize), serde(try_from = "String", into = "String"))]
        pub struct $name(String);

        impl $name {
            /// The rule in words, as error messages quote it.
            pub const RULE: &'static str = $rule;

            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                if $check(&text) { Ok(Self(text)) } else { Err(BadName { found: text, rule: Self::RULE }) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
    };
}

text_id!(
    /// Name of a service: one DNS label (RFC 1035 §2.3.1, digits allowed first by RFC 1123 §2.1), lower case.
    ServiceName,
    is_dns_label,
    "a DNS label: 1 to 63 of a-z, 0-9 and `-`, neither first nor last a `-`"
);
text_id!(
    /// One running copy of a release: 12 of `[a-z0-9]`, short so that socket paths stay short.
    InstanceId,
    is_instance_id,
    "an instance id: 12 of a-z and 0-9"
);
text_id!(
    /// A full git object name, SHA-1, lower-case hexadecimal.
    Commit,
    is_commit,
    "a commit: 40 hexadecimal digits, lower case"
);

impl Commit {
    /// The first seven digits, as shown to people.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_instance_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $raw:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "documents", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// Numbered state of a stack's document; only grows.
    Version, u64
);
number_id!(
    /// Number of a release within its service, from 1; never used twice.
    ReleaseNumber, u64
);
number_id!(
    /// Generation of the edge's snapshot; only grows over the life of a home.
    Generation, u64
);
number_id!(
    /// Which start of an instance's program this is, from 1; grows with every restart.
    Incarnation, u32
);
number_id!(
    /// Counts the managers that ran on one home; a shim refuses orders from an older one.
    Epoch, u64
);
number_id!(
    /// Number of an event on its host, from 1; never used twice.
    EventId, u64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_are_dns_labels() {
        for good in ["a", "api", "my-api", "0x", &"a".repeat(63)] {
            assert!(ServiceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commits_are_full_and_lower_case() {
        assert!(Commit::new("0123456789abcdef0123456789abcdef01234567").is_ok());
        assert!(Commit::new("0123456").is_err());
        assert!(Commit::new("0123456789ABCDEF0123456789abcdef01234567").is_err());
    }
}
