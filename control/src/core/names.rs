//! Texts that people choose, and their bounds.

use std::collections::BTreeMap;

use super::Error;

const NAME_CHARS_MAX: usize = 63;
const REASON_CHARS_MAX: usize = 500;
const LABELS_MAX: usize = 32;

/// One line that can be shown: no control characters, no spaces at its ends.
pub(super) fn name(text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::BadRequest("a name is missing".to_owned()));
    }
    line(text, NAME_CHARS_MAX, "a name")
}

pub(super) fn optional_name(text: &str) -> Result<String, Error> {
    line(text.trim(), NAME_CHARS_MAX, "a name")
}

pub(super) fn reason(text: &str) -> Result<String, Error> {
    line(text.trim(), REASON_CHARS_MAX, "a reason")
}

fn line(text: &str, chars_max: usize, what: &str) -> Result<String, Error> {
    if text.chars().count() > chars_max || text.chars().any(char::is_control) {
        return Err(Error::BadRequest(format!("{what} is one line of at most {chars_max} characters")));
    }
    Ok(text.to_owned())
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    if labels.len() > LABELS_MAX {
        return Err(Error::BadRequest(format!("at most {LABELS_MAX} labels")));
    }
    labels.iter().map(|(key, value)| Ok((name(key)?, optional_name(value)?))).collect()
}

/// What a host says of itself: never an error, what cannot be shown is left out.
pub(super) fn shown(text: &str, chars_max: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(chars_max).collect()
}
