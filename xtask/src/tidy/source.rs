//! A file as the rules see it: its text, and for Rust the code with comments and literals blanked out, so that no rule
//! stumbles over a word in a string. A lexer, not a parser: it is sure of where tokens end and of nothing else.

use std::ops::Range;

/// One file of the tree. Lines are counted from 0 here and from 1 in findings.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// As long as `text`, same line breaks; everything in comments, strings and chars is spaces. Empty unless Rust.
    pub(crate) code: String,
    /// As long as `text`; only what stands in comments.
    pub(crate) comments: String,
}

/// What a rule has to say about a line, and how to be rid of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// From 1.
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) cure: String,
}

/// A word, a number or one character of punctuation, with its place in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = if path.ends_with(".rs") { blank(text) } else { (String::new(), String::new()) };
        Self { path: path.to_owned(), text: text.to_owned(), code, comments }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is test code by its place or name.
    pub(crate) fn is_test_file(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
    }

    pub(crate) fn finding(&self, line: usize, what: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line: line + 1, what: what.into(), cure: cure.into() }
    }

    /// Line, from 0, of a byte offset.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
    }

    /// The words of the comment on a line, empty if there is none.
    pub(crate) fn comment_on(&self, line: usize) -> &str {
        self.comments.lines().nth(line).unwrap_or("").trim().trim_start_matches('/').trim()
    }

    /// Whether the line, or a line above it that is nothing but a comment, carries words.
    pub(crate) fn is_explained(&self, line: usize) -> bool {
        let above_is_bare = |above: usize| self.code.lines().nth(above).is_some_and(|code| code.trim().is_empty());
        !self.comment_on(line).is_empty()
            || line.checked_sub(1).is_some_and(|above| above_is_bare(above) && !self.comment_on(above).is_empty())
    }

    pub(crate) fn tokens(&self) -> Vec<Token<'_>> {
        let bytes = self.code.as_bytes();
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = if is_word(bytes[at]) {
                bytes[at..].iter().take_while(|byte| is_word(**byte)).count()
            } else {
                self.code[at..].chars().next().map_or(1, char::len_utf8)
            };
            if !bytes[at].is_ascii_whitespace() {
                tokens.push(Token { text: &self.code[at..at + length], at });
            }
            at += length;
        }
        tokens
    }

    /// Lines, from 0, of the inline modules and functions under `#[cfg(test)]`.
    pub(crate) fn test_lines(&self) -> Vec<Range<usize>> {
        let tokens = self.tokens();
        let mut ranges = Vec::new();
        for start in 0..tokens.len() {
            if !spells(&tokens[start..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
                continue;
            }
            let after = start + 7;
            let Some(end) = item_end(&tokens, after) else { continue };
            ranges.push(self.line_of(tokens[start].at)..self.line_of(tokens[end].at) + 1);
        }
        ranges
    }
}

/// Index of the token that ends the item starting at `from`: its closing brace, or the `;` of one without a body.
pub(crate) fn item_end(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    let mut nested = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(from) {
        match token.text {
            "(" | "[" => nested += 1,
            ")" | "]" => nested = nested.saturating_sub(1),
            ";" if nested == 0 => return Some(index),
            "{" if nested == 0 => return closing_brace(tokens, index),
            _ => {}
        }
    }
    None
}

/// Index of the brace that closes the one at `open`.
pub(crate) fn closing_brace(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" if depth == 1 => return Some(index),
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

pub(crate) fn spells(tokens: &[Token<'_>], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.text == *word)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// What the lexer stands in.
enum Region {
    Code,
    LineComment,
    /// Block comments nest.
    BlockComment(usize),
    Str,
    /// With this many `#`.
    RawStr(usize),
    Char,
}

/// Splits a text into code and comments, each as long as the text.
fn blank(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut region = Region::Code;
    let mut rest = text;
    let mut last_is_word = false;
    while !rest.is_empty() {
        let (length, next) = advance(&region, rest, last_is_word);
        let (part, tail) = rest.split_at(length);
        let is_comment = |region: &Region| matches!(region, Region::LineComment | Region::BlockComment(_));
        let in_comment = is_comment(&region) || next.as_ref().is_some_and(is_comment);
        let in_code = matches!(region, Region::Code) && next.is_none();
        push(&mut code, part, in_code);
        push(&mut comments, part, in_comment);
        last_is_word = part.bytes().last().is_some_and(is_word);
        region = next.unwrap_or(region);
        rest = tail;
    }
    (code, comments)
}

/// How many bytes belong together, and the region after them if it is another one.
fn advance(region: &Region, rest: &str, last_is_word: bool) -> (usize, Option<Region>) {
    let first = rest.chars().next().map_or(1, char::len_utf8);
    let escaped = || 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
    match region {
        Region::Code => opening(rest, last_is_word).map_or((first, None), |(length, next)| (length, Some(next))),
        Region::LineComment if rest.starts_with('\n') => (1, Some(Region::Code)),
        Region::BlockComment(1) if rest.starts_with("*/") => (2, Some(Region::Code)),
        Region::BlockComment(depth) if rest.starts_with("*/") => (2, Some(Region::BlockComment(depth - 1))),
        Region::BlockComment(depth) if rest.starts_with("/*") => (2, Some(Region::BlockComment(depth + 1))),
        Region::Str | Region::Char if rest.starts_with('\\') => (escaped(), None),
        Region::Str if rest.starts_with('"') => (1, Some(Region::Code)),
        Region::Char if rest.starts_with('\'') => (1, Some(Region::Code)),
        Region::RawStr(hashes) if rest.starts_with('"') && closes_raw(rest, *hashes) => {
            (1 + hashes, Some(Region::Code))
        }
        Region::LineComment | Region::BlockComment(_) | Region::Str | Region::RawStr(_) | Region::Char => (first, None),
    }
}

/// The region that starts here, with the length of what opens it.
fn opening(rest: &str, last_is_word: bool) -> Option<(usize, Region)> {
    if rest.starts_with("//") {
        return Some((2, Region::LineComment));
    }
    if rest.starts_with("/*") {
        return Some((2, Region::BlockComment(1)));
    }
    if rest.starts_with('"') {
        return Some((1, Region::Str));
    }
    if rest.starts_with('\'') {
        let mut after = rest.chars().skip(1);
        let (first, second) = (after.next(), after.next());
        return (first == Some('\\') || second == Some('\'')).then_some((1, Region::Char));
    }
    if last_is_word {
        return None;
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
    let hashes = raw.bytes().take_while(|byte| *byte == b'#').count();
    raw[hashes..].starts_with('"').then_some((rest.len() - raw.len() + hashes + 1, Region::RawStr(hashes)))
}

fn closes_raw(rest: &str, hashes: usize) -> bool {
    rest.len() > hashes && rest.as_bytes()[1..=hashes].iter().all(|byte| *byte == b'#')
}

fn push(out: &mut String, part: &str, keep: bool) {
    for char in part.chars() {
        match char {
            '\n' => out.push('\n'),
            char if keep => out.push(char),
            char => out.extend(std::iter::repeat_n(' ', char.len_utf8())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_not_code() {
        let text =
            "let a = \"use crate::x; \\\" //\"; // why é\nlet b = r#\"unsafe \" {\"#; let c = '\"'; let d: &'a u8;\n";
        let source = Source::new("a.rs", text);
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.comments.len(), text.len());
        let words: Vec<&str> = source.tokens().iter().map(|token| token.text).collect();
        assert_eq!(
            words.join(" "),
            "let a = ; let b = ; let c = ; let d : & ' a u8 ;",
            "strings, chars and comments vanish, lifetimes stay"
        );
        assert_eq!(source.comment_on(0), "why é");
        assert_eq!(source.comment_on(1), "");
    }

    #[test]
    fn block_comments_nest_and_identifiers_ending_in_r_open_nothing() {
        let source = Source::new("a.rs", "/* a /* b */ c */ let bar = 1; let br = for_r\"x\";\n");
        let words: Vec<&str> = source.tokens().iter().map(|token| token.text).collect();
        assert_eq!(words.join(" "), "let bar = 1 ; let br = for_r ;");
    }

    #[test]
    fn test_code_is_found_by_its_braces() {
        let text = "#[cfg(test)]\nmod fakes;\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        assert_eq!(Source::new("a.rs", text).test_lines(), [0..2, 3..7]);
    }

    #[test]
    fn a_comment_explains_its_line_and_the_next() {
        let source = Source::new("a.rs", "// reason\nlet _ = a();\nlet _ = b(); // closed peer\nlet _ = c();\n");
        let explained: Vec<bool> = (0..4).map(|line| source.is_explained(line)).collect();
        assert_eq!(explained, [true, true, true, false]);
    }
}
