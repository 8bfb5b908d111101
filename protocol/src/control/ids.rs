//! Names the control server gives: a prefix that says what it names, then letters and digits.

use crate::ids::BadName;

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                let rest = text.strip_prefix(Self::PREFIX).unwrap_or_default();
                if (4..=40).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    return Ok(Self(text));
                }
                Err(BadName { found: text, rule: $rule })
            }

            /// From random bytes, in base32 (RFC 4648 §6, lower case).
            pub fn of(random: &[u8; 16]) -> Self {
                Self(format!("{}{}", Self::PREFIX, base32(random)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
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
    };
}

prefixed_id!(
    /// A stack on a control server.
    StackId, "stk_", "a stack's id: `stk_` and 4 to 40 letters or digits"
);
prefixed_id!(
    /// A host that was enrolled, or asks to be.
    HostId, "hst_", "a host's id: `hst_` and 4 to 40 letters or digits"
);
prefixed_id!(
    /// A token a host joins with; public, the secret is another.
    TokenId, "adt_", "a token's id: `adt_` and 4 to 40 letters or digits"
);

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut put = |five: u32| text.push(usize::try_from(five).map_or('a', |five| char::from(ALPHABET[five])));
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            put(bits >> held & 31);
            bits &= (1 << held) - 1;
        }
    }
    if held > 0 {
        put(bits << (5 - held) & 31);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_what_they_name() {
        let id = HostId::of(&[0xff; 16]);
        assert_eq!((id.as_str().len(), id.as_str().parse()), (4 + 26, Ok(id.clone())));
        // RFC 4648 §10.
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        for bad in ["", "hst_", "hst_abc", "stk_abcdef", "hst_a/../b", "hst_abc\"d", &format!("hst_{}", "a".repeat(41))]
        {
            assert!(HostId::new(bad).is_err(), "{bad}");
        }
    }
}
