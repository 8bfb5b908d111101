//! Texts of others, made harmless for an eye: what cannot be seen, or turns the order of other characters around, is
//! written out as `\u{202e}`. Pure; for pages and for terminals.

use std::fmt::Write;

/// Controls (C0, DEL, C1), and what takes no room or changes direction: Unicode's default-ignorable and bidirectional
/// characters (UAX #9, UTS #55), but for variation selectors, which emoji in logs are full of and which hide nothing.
pub(crate) fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Adds the character, or what stands for it; how many characters that were.
pub(crate) fn push(to: &mut String, char: char) -> usize {
    if !is_unseen(char) {
        to.push(char);
        return 1;
    }
    let before = to.len();
    // A String takes whatever it is given.
    write!(to, "\\u{{{:x}}}", u32::from(char)).expect("a String can be written to");
    to.len() - before
}

/// One line of it.
pub(crate) fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        push(&mut shown, char);
    }
    shown
}

/// Many lines, with their ends and tabs.
pub(crate) fn lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if matches!(char, '\n' | '\t') {
            shown.push(char);
        } else {
            push(&mut shown, char);
        }
    }
    shown
}

/// JSON stays JSON: outside of its texts there is nothing but line ends to hide.
pub(crate) fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut units = [0; 2];
    for char in text.chars() {
        if char == '\n' || !is_unseen(char) {
            shown.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut units) {
            write!(shown, "\\u{unit:04x}").expect("a String can be written to");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        assert_eq!(line("a\u{202e}b\u{1b}[31m\n\u{0}é"), "a\\u{202e}b\\u{1b}[31m\\u{a}\\u{0}é");
        assert_eq!(lines("a\n\tb\r\n\u{9b}c"), "a\n\tb\\u{d}\n\\u{9b}c");
        let sent = serde_json::json!({"a": "x\u{202e}\u{7f}\u{9b}\u{e0041}"});
        let shown = json(&serde_json::to_string_pretty(&sent).unwrap());
        assert!(!shown.chars().any(|char| char != '\n' && is_unseen(char)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), sent);
    }

    proptest! {
        #[test]
        fn nothing_unseen_is_left(text in any::<String>()) {
            prop_assert!(!line(&text).chars().any(is_unseen));
            let quoted = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&json(&quoted)).unwrap(), text);
        }
    }
}
