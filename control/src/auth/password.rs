//! What a password must be (pure), and how it is kept: argon2id, in PHC's form.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// NIST SP 800-63B §3.1.1.2 asks for 15 where a password is all there is.
pub(crate) const PASSWORD_CHARS_MIN: usize = 14;
/// More is no stronger, and hashing it costs.
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// Fewer different characters are a pattern.
const DISTINCT_CHARS_MIN: usize = 7;
/// Neighbours on a keyboard or in the alphabet, this many in a row count as one.
const RUN_CHARS: usize = 4;
/// RFC 9106 §4 and OWASP: 19 MiB, two passes, one lane. 30 ms to 60 ms of one core.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
const RUNS: [&str; 5] = [
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiop",
];
/// Words that open every list of tried passwords; what is left beside them has to do.
const WORDS: [&str; 14] = [
    "password",
    "passwort",
    "passphrase",
    "letmein",
    "welcome",
    "iloveyou",
    "monkey",
    "dragon",
    "secret",
    "changeme",
    "admin",
    "agentd",
    "controld",
    "login",
];

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weakness {
    Short,
    Long,
    Repeats,
    /// Little is left without sequences, common words and the account's name.
    Guessable,
}

impl Weakness {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Short => format!("it has fewer than {PASSWORD_CHARS_MIN} characters: a few random words do"),
            Self::Long => format!("it has more than {PASSWORD_BYTES_MAX} bytes"),
            Self::Repeats => format!("it repeats itself: use at least {DISTINCT_CHARS_MIN} different characters"),
            Self::Guessable => {
                "without sequences, common words and your name too little of it is left to be guessed".to_owned()
            }
        }
    }
}

/// Everything that speaks against it; empty: it is good.
pub(crate) fn weaknesses(password: &str, name: &str) -> Vec<Weakness> {
    let mut found = Vec::new();
    let chars = password.chars().count();
    if chars < PASSWORD_CHARS_MIN {
        found.push(Weakness::Short);
    }
    if password.len() > PASSWORD_BYTES_MAX {
        found.push(Weakness::Long);
        return found;
    }
    let distinct: std::collections::BTreeSet<char> = password.chars().collect();
    if distinct.len() < DISTINCT_CHARS_MIN {
        found.push(Weakness::Repeats);
    } else if chars >= PASSWORD_CHARS_MIN && unpredictable(password, name) < PASSWORD_CHARS_MIN / 2 {
        found.push(Weakness::Guessable);
    }
    found
}

/// Characters that are left when what a guesser tries first counts as one each.
fn unpredictable(password: &str, name: &str) -> usize {
    let mut text = password.to_lowercase();
    let name = name.to_lowercase();
    for word in WORDS.into_iter().chain((name.chars().count() >= 3).then_some(name.as_str())) {
        text = text.replace(word, "\u{0}");
    }
    let chars: Vec<char> = text.chars().collect();
    let (mut count, mut at) = (0, 0);
    while at < chars.len() {
        at += run_length(&chars[at..]).max(1);
        count += 1;
    }
    count
}

/// How many characters from the first on are one sequence or one repeated character; 0: too few to count.
fn run_length(chars: &[char]) -> usize {
    let same = chars.iter().take_while(|char| **char == chars[0]).count();
    let longest = |line: &str| {
        let fits = |length: &usize| {
            let part: String = chars[..*length].iter().collect();
            line.contains(&part)
        };
        (RUN_CHARS..=chars.len().min(line.len())).rev().find(fits).unwrap_or(0)
    };
    let forward = RUNS.iter().map(|line| longest(line));
    let backward = RUNS.iter().map(|line| longest(&line.chars().rev().collect::<String>()));
    let run = forward.chain(backward).max().unwrap_or(0).max(same);
    if run >= RUN_CHARS { run } else { 0 }
}

/// Takes tens of milliseconds and 19 MiB: never on a task that serves requests.
pub(crate) fn hash(password: &str, salt: [u8; SALT_BYTES]) -> String {
    let mut hash = [0; HASH_BYTES];
    derive(password, &salt, (MEMORY_KIB, PASSES, LANES), &mut hash);
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}")
}

pub(crate) fn draw_salt() -> [u8; SALT_BYTES] {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).expect("the kernel has random bytes once the system is up");
    salt
}

/// `None`, where there is no such account, takes as long as a wrong password.
pub(crate) fn verify(stored: Option<&str>, password: &str) -> bool {
    let known = stored.and_then(Kept::read);
    let is_known = known.is_some();
    let kept = known.unwrap_or_else(Kept::nobody);
    let mut hash = Zeroizing::new([0; HASH_BYTES]);
    derive(password, &kept.salt, kept.cost, &mut hash);
    bool::from(hash.ct_eq(&kept.hash)) && is_known
}

fn derive(password: &str, salt: &[u8], (memory, passes, lanes): (u32, u32, u32), hash: &mut [u8; HASH_BYTES]) {
    let params = Params::new(memory, passes, lanes, Some(HASH_BYTES)).expect("ours, or read back within its bounds");
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(password.as_bytes(), salt, hash).expect("a password within its bounds can be hashed");
}

struct Kept {
    cost: (u32, u32, u32),
    salt: [u8; SALT_BYTES],
    hash: [u8; HASH_BYTES],
}

impl Kept {
    fn nobody() -> Self {
        Self { cost: (MEMORY_KIB, PASSES, LANES), salt: [0; SALT_BYTES], hash: [0; HASH_BYTES] }
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$argon2id$v=19$")?.split('$');
        let (cost, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let mut costs = cost.split(',').zip(["m=", "t=", "p="]).map(|(part, key)| part.strip_prefix(key)?.parse().ok());
        let cost: (u32, u32, u32) = (costs.next()??, costs.next()??, costs.next()??);
        // A cost that no version of ours writes would be a way to stop the server.
        let is_ours = (8..=1024 * 1024).contains(&cost.0) && (1..=16).contains(&cost.1) && (1..=16).contains(&cost.2);
        let salt = STANDARD_NO_PAD.decode(salt).ok()?.try_into().ok()?;
        let hash = STANDARD_NO_PAD.decode(hash).ok()?.try_into().ok()?;
        (is_ours && cost.0 >= 8 * cost.2).then_some(Self { cost, salt, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_says_why() {
        for (password, why) in [
            ("short", vec![Weakness::Short, Weakness::Repeats]),
            ("correct horse", vec![Weakness::Short]),
            ("aaaaaaaaaaaaaaaaaaaa", vec![Weakness::Repeats]),
            ("abcdefghijklmnopq", vec![Weakness::Guessable]),
            ("PasswordPassword123", vec![Weakness::Guessable]),
            ("qwertyuiop1234567890", vec![Weakness::Guessable]),
            ("martha martha martha", vec![Weakness::Repeats]),
            ("owner-owner-owner-12", vec![Weakness::Guessable]),
            ("correct horse battery", vec![]),
            ("gT7#kw0!Zr4bQ9", vec![]),
            ("zwölf Boxkämpfer jagen", vec![]),
        ] {
            assert_eq!(weaknesses(password, "owner"), why, "{password}");
        }
        assert_eq!(weaknesses(&"abcdef gh".repeat(30), "owner"), [Weakness::Long]);
    }

    #[test]
    fn what_was_hashed_is_known_again() {
        let kept = hash("correct horse battery", [7; 16]);
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(verify(Some(&kept), "correct horse battery"));
        assert!(!verify(Some(&kept), "correct horse batterY"));
        assert!(!verify(None, "correct horse battery"));
        for broken in ["", "$argon2id$v=19$m=4294967295,t=2,p=1$AAAA$AAAA", &kept[..kept.len() - 2]] {
            assert!(!verify(Some(broken), "correct horse battery"), "{broken}");
        }
    }
}
