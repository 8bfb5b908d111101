//! Secrets never leave this host in what is shown (pure but for the reading of credentials): the values of
//! variables, git tokens and deploy keys are taken out of log lines, causes and events. On disk logs stay as written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use agentd_protocol::api::{Event, ProbeOutcome, Problem, Status};
use agentd_protocol::control::report::EventRecord;
use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::source::Credential;

/// Bytes of a credential's file that are read: keys have a few thousand.
const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;
/// A shorter value would be found in half of all lines.
const SECRET_BYTES_MIN: usize = 6;
/// From here on a value is masked whatever its variable is called, unless it is plain.
const ANY_BYTES_MIN: usize = 8;
/// Words of a plain value (of one item of a list), and letters of each: more of them make a passphrase.
const PLAIN_WORDS_MAX: usize = 3;
const PLAIN_LETTERS_MAX: usize = 20;
/// Digits of a plain value: sizes, dates and Unix times in ms have fewer than a card's number.
const PLAIN_DIGITS_MAX: usize = 13;
/// A part of a path or an address that is so long and has letters and digits was made by a random generator.
const RANDOM_BYTES_MIN: usize = 16;

/// Parts of a variable's name that call its value a secret.
const SECRET_WORDS: &[&str] = &[
    "APIKEY",
    "AUTH",
    "COOKIE",
    "CRED",
    "CREDENTIAL",
    "CREDENTIALS",
    "CREDS",
    "DSN",
    "KEY",
    "KEYS",
    "PASS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PIN",
    "PRIVATE",
    "PSK",
    "PW",
    "PWD",
    "SALT",
    "SECRET",
    "SECRETS",
    "SIGNATURE",
    "SIGNING",
    "TOKEN",
    "TOKENS",
];

/// Everything to be masked. Debug shows how many.
pub(super) struct Secrets {
    /// By pattern: what stands in its place.
    masks: Vec<String>,
    patterns: Option<AhoCorasick>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("patterns", &self.masks.len()).finish()
    }
}

/// `text` with every secret as `[masked NAME]`: the longest first where several begin at one place.
pub(super) fn mask<'a>(text: &'a str, secrets: &Secrets) -> Cow<'a, str> {
    let Some(patterns) = secrets.patterns.as_ref().filter(|patterns| patterns.is_match(text)) else {
        return Cow::Borrowed(text);
    };
    let mut masked = String::with_capacity(text.len());
    patterns.replace_all_with(text, &mut masked, |found, _, out| {
        out.push_str(&secrets.masks[found.pattern()]);
        true
    });
    Cow::Owned(masked)
}

pub(super) fn mask_string(text: &mut String, secrets: &Secrets) {
    if let Cow::Owned(masked) = mask(text, secrets) {
        *text = masked;
    }
}

pub(super) fn mask_problem(problem: &mut Problem, secrets: &Secrets) {
    mask_string(&mut problem.cause, secrets);
    let why = &mut problem.why;
    let lines = problem.log_tail.iter_mut().chain(&mut why.key_lines).chain(&mut why.meaning);
    lines.for_each(|line| mask_string(line, secrets));
    for probe in &mut problem.probes {
        if let ProbeOutcome::Failed { error } = &mut probe.outcome {
            mask_string(error, secrets);
        }
    }
}

pub(super) fn mask_status(status: &mut Status, secrets: &Secrets) {
    status.stack.file_problem.iter_mut().for_each(|text| mask_string(text, secrets));
    status.stack.problems.iter_mut().for_each(|problem| mask_problem(problem, secrets));
    for service in &mut status.services {
        service.last_error.iter_mut().chain(&mut service.warnings).for_each(|text| mask_string(text, secrets));
    }
}

pub(super) fn mask_event(event: &mut Event, secrets: &Secrets) {
    mask_string(&mut event.text, secrets);
    let before = serde_json::to_value(&event.what).expect("what happened is plain JSON");
    let mut after = before.clone();
    mask_json(&mut after, secrets);
    if after != before {
        // Its own form with other texts in it; what no longer fits a field becomes one of an unknown kind.
        event.what = serde_json::from_value(after).expect("every kind with its details can be read");
    }
}

pub(super) fn mask_record(record: &mut EventRecord, secrets: &Secrets) {
    mask_string(&mut record.text, secrets);
    record.data.values_mut().for_each(|value| mask_json(value, secrets));
}

/// Every text in it; keys are ours.
fn mask_json(value: &mut serde_json::Value, secrets: &Secrets) {
    use serde_json::Value;
    match value {
        Value::String(text) => mask_string(text, secrets),
        Value::Array(values) => values.iter_mut().for_each(|value| mask_json(value, secrets)),
        Value::Object(fields) => fields.values_mut().for_each(|value| mask_json(value, secrets)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The secrets met so far. What was one stays one for the life of this manager: old logs still hold it.
#[derive(Default)]
pub(super) struct KnownSecrets(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Mask by pattern.
    masks: BTreeMap<String, String>,
    /// `None` when something was learnt since.
    built: Option<Arc<Secrets>>,
}

impl std::fmt::Debug for KnownSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownSecrets").finish_non_exhaustive()
    }
}

impl KnownSecrets {
    /// Variables, by the rule of [`is_secret`].
    pub(super) fn learn<'a>(&self, variables: impl IntoIterator<Item = (&'a String, &'a String)>) {
        let secret = variables.into_iter().filter(|(name, value)| is_secret(name, value));
        self.add(secret.flat_map(|(name, value)| {
            let mask = format!("[masked {name}]");
            forms(value).into_iter().map(move |form| (form, mask.clone()))
        }));
    }

    /// A token or a key of the host's: always a secret.
    pub(super) fn learn_credential(&self, name: &str, text: &str) {
        self.learn_masked(text, &format!("[masked git credential {name}]"));
    }

    fn learn_masked(&self, text: &str, mask: &str) {
        self.add(forms(text).into_iter().map(|form| (form, mask.to_owned())));
    }

    fn add(&self, masks: impl Iterator<Item = (String, String)>) {
        let mut known = self.0.lock().expect("no holder panics");
        for (form, mask) in masks {
            if let std::collections::btree_map::Entry::Vacant(place) = known.masks.entry(form) {
                place.insert(mask);
                known.built = None;
            }
        }
    }

    pub(super) fn current(&self) -> Arc<Secrets> {
        let mut known = self.0.lock().expect("no holder panics");
        if let Some(built) = &known.built {
            return Arc::clone(built);
        }
        let secrets = Arc::new(Secrets::of(&known.masks));
        known.built = Some(Arc::clone(&secrets));
        secrets
    }
}

/// The files that hold the host's own secrets: git credentials, and that of its tunnel.
#[derive(Debug)]
pub struct CredentialFiles {
    pub files: BTreeMap<String, Credential>,
    /// Deploy keys that were made here.
    pub keys_dir: PathBuf,
    /// A token, or credentials in JSON.
    pub tunnel_file: Option<PathBuf>,
}

/// The one part of a tunnel's credentials that is no name.
const TUNNEL_SECRET: &str = "TunnelSecret";
const TUNNEL_MASK: &str = "[masked tunnel secret]";

impl CredentialFiles {
    /// A file that cannot be read now is no secret that could be told now.
    pub(super) fn learn(&self, secrets: &KnownSecrets) {
        for (name, credential) in &self.files {
            learn_file(secrets, name, credential.file());
        }
        for entry in std::fs::read_dir(&self.keys_dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "pub") {
                learn_file(secrets, &entry.file_name().to_string_lossy(), &path);
            }
        }
        if let Some(text) = self.tunnel_file.as_deref().and_then(text_of) {
            let credentials: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let secret = credentials.as_ref().and_then(|found| found.get(TUNNEL_SECRET)?.as_str());
            secrets.learn_masked(secret.unwrap_or(&text), TUNNEL_MASK);
        }
    }
}

fn learn_file(secrets: &KnownSecrets, name: &str, path: &Path) {
    if let Some(text) = text_of(path) {
        secrets.learn_credential(name, &text);
    }
}

fn text_of(path: &Path) -> Option<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(CREDENTIAL_BYTES_MAX).read_to_string(&mut text));
    read.ok().map(|_| text)
}

impl Secrets {
    fn of(masks: &BTreeMap<String, String>) -> Self {
        let patterns = (!masks.is_empty()).then(|| {
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(masks.keys());
            built.expect("documents are bounded, and with them the states of the automaton")
        });
        Self { masks: masks.values().cloned().collect(), patterns }
    }
}

/// Whether a variable's value is masked.
///
/// - Never under 6 bytes: it would be found everywhere.
/// - From 6 bytes when the name says so (`DB_PASSWORD`, `API_KEY`), unless the value is a path, an address without user
///   and secret, or a truth value.
/// - From 8 bytes whatever the name, unless the value is plain: up to three words (`info-level`), numbers, a path, an
///   address without user, query or random part. So `LOG_LEVEL=production` masks no `production`, while `hunter2-x`,
///   a UUID, a passphrase of four words and `postgres://u:p@h/x` are masked wherever they stand.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let value = value.trim();
    let named = || name.to_ascii_uppercase().split('_').any(|word| SECRET_WORDS.contains(&word));
    if value.len() < SECRET_BYTES_MIN || is_place(value) {
        return false;
    }
    let truth = ["enabled", "disabled"].iter().any(|word| value.eq_ignore_ascii_case(word));
    (named() && !truth) || (value.len() >= ANY_BYTES_MIN && !is_plain(value))
}

/// A path, an address or a host with nothing secret in it.
fn is_place(value: &str) -> bool {
    if value.parse::<IpAddr>().is_ok() || value.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let is_path = ["/", "./", "../", "~/"].iter().any(|start| value.starts_with(start));
    let random = |part: &str| {
        part.len() >= RANDOM_BYTES_MIN
            && part.bytes().any(|byte| byte.is_ascii_digit())
            && part.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    (is_path || value.contains("://"))
        && !value.contains(['@', '?', '#', '=', ' ', '\n'])
        && !value.split(|letter: char| !letter.is_ascii_alphanumeric()).any(random)
}

/// A list is as plain as what it lists.
fn is_plain(value: &str) -> bool {
    value.split(',').all(|item| {
        let parts: Vec<&str> = item.split(['-', '_', '.', ':', '/', ' ']).filter(|part| !part.is_empty()).collect();
        let (words, rest): (Vec<&str>, Vec<&str>) = parts.into_iter().partition(|part| is_word(part));
        let digits: usize = rest.iter().map(|part| part.len()).sum();
        words.len() <= PLAIN_WORDS_MAX
            && digits <= PLAIN_DIGITS_MAX
            && rest.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Lower case, upper case or capitalized.
fn is_word(part: &str) -> bool {
    part.len() <= PLAIN_LETTERS_MAX
        && part.chars().all(char::is_alphabetic)
        && (part.chars().skip(1).all(char::is_lowercase) || part.chars().all(char::is_uppercase))
}

/// The ways a secret is written: as it is, its lines, the password in an address, and each of those escaped as in JSON,
/// in an address, and in base64.
fn forms(value: &str) -> Vec<String> {
    let mut raw = vec![value.trim().to_owned()];
    let mut lines =
        value.lines().map(str::trim).filter(|line| line.len() >= ANY_BYTES_MIN && !line.starts_with("-----"));
    if value.trim().lines().count() > 1 {
        raw.extend(lines.by_ref().filter(|line| !is_plain(line)).map(str::to_owned));
    }
    raw.extend(userinfo(value));
    let mut forms: Vec<String> = raw.iter().flat_map(|raw| escaped(raw)).collect();
    forms.extend(raw);
    forms.retain(|form| form.len() >= SECRET_BYTES_MIN);
    forms
}

fn escaped(raw: &str) -> Vec<String> {
    let percent = utf8_percent_encode(raw, NON_ALPHANUMERIC).to_string();
    // Encoders differ in what they leave as it is (RFC 3986, section 2.3).
    let usual = ["%2D", "%2E", "%5F", "%7E"].iter().zip(["-", ".", "_", "~"]);
    let usual = usual.fold(percent.clone(), |text, (code, letter)| text.replace(code, letter));
    let form = usual.replace("%20", "+");
    let json = serde_json::to_string(raw).expect("a text is JSON");
    let json = json[1..json.len() - 1].to_owned();
    let with_line_end = format!("{raw}\n");
    let base64 = [raw, &with_line_end].map(|text| STANDARD_NO_PAD.encode(text));
    let base64_url = URL_SAFE_NO_PAD.encode(raw);
    let lower = percent.to_ascii_lowercase();
    let lower = if raw.bytes().any(|byte| byte.is_ascii_uppercase()) { percent.clone() } else { lower };
    [percent, lower, usual, form, json, base64_url].into_iter().chain(base64).collect()
}

/// The password of an address, as it stands and decoded, and `user:password` for an Authorization header.
fn userinfo(value: &str) -> Vec<String> {
    let authority = value.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let Some((userinfo, _)) = authority.and_then(|authority| authority.rsplit_once('@')) else { return Vec::new() };
    let Some((_, password)) = userinfo.split_once(':') else { return vec![userinfo.to_owned()] };
    let decoded = percent_decode_str(password).decode_utf8_lossy().into_owned();
    vec![password.to_owned(), decoded, userinfo.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(variables: &[(&str, &str)]) -> Arc<Secrets> {
        let known = KnownSecrets::default();
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        known.learn(&variables);
        known.current()
    }

    fn masked(variables: &[(&str, &str)], text: &str) -> String {
        mask(text, &secrets(variables)).into_owned()
    }

    #[test]
    fn what_is_plain_stays_readable() {
        for (name, value) in [
            ("LOG_LEVEL", "info"),
            ("MODE", "production"),
            ("NODE_ENV", "development"),
            ("FEATURE", "true"),
            ("PORT", "20000"),
            ("SIZE_BYTES", "1073741824"),
            ("VERSION", "12.34.56"),
            ("REGION", "eu-central-1"),
            ("TZ", "Europe/Berlin"),
            ("NAME", "My Small Shop"),
            ("LISTEN", "192.168.100.200:20000"),
            ("API", "http://api.svc.internal:8081/v1"),
            ("ORIGINS", "https://a.example.com,https://b.example.com"),
            ("DATA_DIR", "/var/lib/shop/data"),
            ("TOKEN_FILE", "/run/secrets/token"),
            ("AUTH_URL", "https://login.example.com/realms/shop"),
            ("AUTH_MODE", "disabled"),
            ("PASSWORD", "short"),
            ("HOSTS", "db.internal,cache.internal"),
        ] {
            assert!(!is_secret(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_is_secret_is_masked() {
        for (name, value) in [
            ("DB_PASSWORD", "correct"),
            ("api_key", "abcdef"),
            ("SIGNING_KEY", "0123456789"),
            ("PIN", "123456"),
            ("X", "hunter2-of-the-file"),
            ("PHRASE", "correct-horse-battery-staple"),
            ("ID", "550e8400-e29b-41d4-a716-446655440000"),
            ("LETTERS", "qWeRtZuIoP"),
            ("CARD", "4111 1111 1111 1111"),
            ("DB", "postgres://shop:geheim@db:5432/shop"),
            ("HOOK", "https://hooks.example.com/services/T0/B0/a1B2c3D4e5F6g7H8"),
            ("CALLBACK", "https://example.com/?token=x"),
            ("ODD", "p!ssword"),
        ] {
            assert!(is_secret(name, value), "{name}={value}");
        }
    }

    #[test]
    fn the_longest_wins_and_names_are_told() {
        let variables = [("A_KEY", "abcdef"), ("B_KEY", "abcdefghi"), ("LOG_LEVEL", "info")];
        assert_eq!(masked(&variables, "info: abcdef and abcdefghij"), "info: [masked A_KEY] and [masked B_KEY]j");
        assert_eq!(masked(&variables, "abcde"), "abcde");
        assert_eq!(masked(&[], "abcdef"), "abcdef");
    }

    #[test]
    fn other_ways_to_write_a_secret_are_known() {
        let url = "postgres://shop:pa%2Fss-word@db:5432/shop";
        let variables = [
            ("DB", url),
            ("TOKEN", "a b/c\"d~e"),
            ("CERT", "-----BEGIN X KEY-----\nMIIabc123DEF\nshort\n-----END X KEY-----\n"),
        ];
        for (text, expected) in [
            (url, "[masked DB]"),
            ("password pa/ss-word!", "password [masked DB]!"),
            ("pa%2Fss-word", "[masked DB]"),
            ("Basic c2hvcDpwYSUyRnNzLXdvcmQ=", "Basic [masked DB]="),
            ("?t=a%20b%2Fc%22d~e&x", "?t=[masked TOKEN]&x"),
            ("?t=a+b%2Fc%22d~e&x", "?t=[masked TOKEN]&x"),
            ("?t=a%20b%2fc%22d%7ee&x", "?t=[masked TOKEN]&x"),
            (r#"{"t":"a b/c\"d~e"}"#, r#"{"t":"[masked TOKEN]"}"#),
            ("YSBiL2MiZH5l", "[masked TOKEN]"),
            ("YSBiL2MiZH5lCg==", "[masked TOKEN]=="),
            ("one line: MIIabc123DEF", "one line: [masked CERT]"),
            ("-----BEGIN X KEY-----", "-----BEGIN X KEY-----"),
            ("short", "short"),
        ] {
            assert_eq!(masked(&variables, text), expected);
        }
    }

    #[test]
    fn what_was_learnt_is_not_forgotten_and_credentials_need_no_rule() {
        let known = KnownSecrets::default();
        assert_eq!(mask("plainword", &known.current()), "plainword");
        known.learn_credential("shop", "plainword\n");
        known.learn(&BTreeMap::from([("TOKEN".to_owned(), "abcdef".to_owned())]));
        known.learn(&BTreeMap::from([("TOKEN".to_owned(), "ghijkl".to_owned())]));
        let text = mask("plainword abcdef ghijkl", &known.current()).into_owned();
        assert_eq!(text, "[masked git credential shop] [masked TOKEN] [masked TOKEN]");
        assert!(!format!("{known:?}{:?}", known.current()).contains("abcdef"));
        let mut cause = serde_json::json!({ "what": ["abcdef", 1], "phase": { "x": "ghijkl" } });
        mask_json(&mut cause, &known.current());
        assert_eq!(cause, serde_json::json!({ "what": ["[masked TOKEN]", 1], "phase": { "x": "[masked TOKEN]" } }));
    }
}
