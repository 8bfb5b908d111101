//! What a file of the folder says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// One exchange, or a short sequence.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// The rule it shows, in a sentence.
    pub about: String,
    /// Sequences of `given/` that come first.
    #[serde(default)]
    pub given: Vec<String>,
    /// The capability without which a server passes all the same.
    #[serde(default)]
    pub optional: Option<String>,
    pub steps: Vec<Step>,
    #[serde(skip)]
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Operator(Order),
    Exchange(Box<Exchange>),
    PauseS(u64),
}

/// What the operator's hook is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub verb: String,
    #[serde(default)]
    pub input: Value,
    /// For `token` and `stack`: what its answer is called from here on.
    #[serde(default, rename = "as")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub send: Send,
    /// Done while the request waits for its answer, which must not have come before.
    #[serde(default)]
    pub meanwhile: Vec<Step>,
    /// From the end of `meanwhile`, or from the sending.
    #[serde(default)]
    pub answered_within_s: Option<u64>,
    pub expect: Expect,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    pub method: String,
    pub path: String,
    #[serde(default)]
    pub query: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub body: Option<Value>,
    /// The body as it is, where it is no JSON.
    #[serde(default)]
    pub text: Option<String>,
    /// A body of so many blanks.
    #[serde(default)]
    pub blanks: Option<usize>,
    #[serde(default)]
    pub sign: Vec<Sign>,
    /// Seconds from now to what the signature says of its time.
    #[serde(default)]
    pub created_s: i64,
    /// The digest that is sent and signed is that of this text, not of the body.
    #[serde(default)]
    pub digest_of: Option<String>,
    /// Replaced in `Signature-Input` after signing.
    #[serde(default)]
    pub changed_input: Option<(String, String)>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    pub label: String,
    pub keyid: String,
    /// Name of a key: a token's, or any other, which is made from its name.
    pub key: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOf<T> {
    One(T),
    Any(Vec<T>),
}

impl<T: PartialEq> OneOf<T> {
    pub fn has(&self, wanted: &T) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Any(any) => any.contains(wanted),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub status: OneOf<u16>,
    /// Slug of the problem.
    #[serde(default)]
    pub problem: Option<OneOf<String>>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub body: Option<Value>,
    /// Name to a JSON pointer into the answer, or `header:NAME`.
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
    #[serde(default)]
    pub verify: Option<Verify>,
}

/// What of the answer is verified as a host verifies it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// The roots against the pin of the token of this name; the receipt against the roots.
    Enrolled(String),
    /// The roots do not fit the pin of the token of this name.
    OtherRoot(String),
    /// The bytes are an envelope that root 1 of the trust record was opened from.
    FirstRoot,
    /// `head.json`: a newer version than the one believed; its object is to be fetched.
    Newer,
    /// Nothing new.
    Current,
    /// A newer version that is not to be taken yet.
    Held,
    /// The state object of the offered version; it is believed from here on.
    State,
    /// The env object that the believed state names.
    Env,
}

/// Where the files lie, as the workspace was built.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("control-conformance")
}

/// Every sequence of `vectors/`, by name.
pub fn load(dir: &Path) -> Result<Vec<Vector>> {
    let vectors_dir = dir.join("vectors");
    let mut vectors = Vec::new();
    for entry in std::fs::read_dir(&vectors_dir).with_context(|| format!("list {}", vectors_dir.display()))? {
        vectors.push(read(&entry?.path())?);
    }
    if vectors.is_empty() {
        bail!("{} has no vectors", vectors_dir.display());
    }
    vectors.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(vectors)
}

pub(super) fn given(dir: &Path, name: &str) -> Result<Vector> {
    read(&dir.join("given").join(format!("{name}.json")))
}

fn read(path: &Path) -> Result<Vector> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut vector: Vector = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    vector.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(vector)
}
