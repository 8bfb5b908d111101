//! Branches and tags of a document replaced by commits, with every other byte as it was.

use std::collections::BTreeMap;
use std::ops::Range;

use agentd_protocol::ids::{Commit, ServiceName};
use agentd_protocol::stack::{Revision, Stack};

use crate::{Format, json, read, toml};

/// The key a service follows a branch or tag by, and what takes its place.
pub(crate) const REF: &str = "ref";
const COMMIT: &str = "commit";

/// Byte ranges of a service's `ref`: its key and its value, quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefPlace {
    pub(crate) service: usize,
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// The document with `commit` instead of `ref` for every service named in `commits`. `stack` is what `text` was read as.
/// `None` when the result would not be that stack at those commits: then nothing should be written.
pub fn lock(text: &str, format: Format, stack: &Stack, commits: &BTreeMap<ServiceName, Commit>) -> Option<String> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mark = &text[..text.len() - body.len()];
    let mut places = match format {
        Format::Toml => toml::refs(body),
        Format::Json => json::refs(body),
    };
    places.sort_by_key(|place| std::cmp::Reverse(place.key.start));
    let mut locked = body.to_owned();
    for place in places {
        let entry = stack.service.get(place.service)?;
        let Some(commit) = commits.get(&entry.name) else { continue };
        // The later of the two first: the places of what stands before stay good.
        let key = match format {
            Format::Toml => COMMIT.to_owned(),
            Format::Json => format!("\"{COMMIT}\""),
        };
        locked.replace_range(place.value, &format!("\"{commit}\""));
        locked.replace_range(place.key, &key);
    }
    let mut wanted = stack.clone();
    for entry in &mut wanted.service {
        if let Some(commit) = commits.get(&entry.name) {
            entry.source = Revision::Commit(commit.clone());
        }
    }
    (read(&locked, format).ok()? == wanted).then(|| format!("{mark}{locked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(text: &str, format: Format) -> String {
        let stack = read(text, format).unwrap();
        let follows = stack.service.iter().filter(|entry| matches!(entry.source, Revision::Ref(_)));
        let commit = |letter: char| Commit::new(letter.to_string().repeat(40)).unwrap();
        let commits =
            follows.zip(('a'..='f').map(commit)).map(|(entry, commit)| (entry.name.clone(), commit)).collect();
        lock(text, format, &stack, &commits).unwrap()
    }

    fn hex(letter: char) -> String {
        letter.to_string().repeat(40)
    }

    #[test]
    fn toml_keeps_its_comments_its_order_and_its_quirks() {
        let text = "\u{feff}# shop\nschema = 1\nstack.name = 's'\n\n[[service]] # first\nname = 'one'\nrepo = 'file:///a'\n\
                    ref   =  'main'   # follows main\nrun = \"echo ref = 'main'\"\n\n[[service]]\nname = 'two'\n\
                    repo = 'file:///a'\ncommit = \"1111111111111111111111111111111111111111\"\nrun = 'x'\n\n\
                    [[service]]\r\n\"ref\" = \"\"\"v1\"\"\"\r\nname = 'three'\nrepo = 'file:///a'\nrun = 'x'\n";
        let expected = text.replacen("ref   =  'main'", &format!("commit   =  \"{}\"", hex('a')), 1).replacen(
            "\"ref\" = \"\"\"v1\"\"\"",
            &format!("commit = \"{}\"", hex('b')),
            1,
        );
        assert_eq!(locked(text, Format::Toml), expected);
        let inline = "schema = 1\nstack = { name = 's' }\nservice = [{ name = 'a', repo = 'file:///a', ref = 'm', run = 'x' }]\n";
        let expected = inline.replace("ref = 'm'", &format!("commit = \"{}\"", hex('a')));
        assert_eq!(locked(inline, Format::Toml), expected);
    }

    #[test]
    fn json_keeps_its_layout() {
        let text = "{\"schema\":1,\"stack\":{\"name\":\"s\"},\n  \"service\": [\n    {\"name\":\"a\", \"ref\" : \"m\",\n     \
                    \"repo\":\"file:///a\",\"run\":\"x\"}\n  ]\n}\n";
        let expected = text.replace("\"ref\" : \"m\"", &format!("\"commit\" : \"{}\"", hex('a')));
        assert_eq!(locked(text, Format::Json), expected);
    }
}
