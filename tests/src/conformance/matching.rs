//! Whether an answer is the expected one. Objects may have more keys than are expected: unknown ones are passed over.

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::ids::HostId;
use agentd_protocol::control::time::Time;
use anyhow::{Result, bail};
use serde_json::Value;

/// `at` is a JSON pointer, for the failure's text.
pub(super) fn same(expected: &Value, found: &Value, at: &str) -> Result<()> {
    match (expected, found) {
        (Value::String(pattern), found) if is_pattern(pattern) => match fits(pattern, found) {
            true => Ok(()),
            false => bail!("{at}: {pattern} was expected, found {found}"),
        },
        (Value::Object(expected), Value::Object(found)) => expected.iter().try_for_each(|(key, expected)| {
            let at = format!("{at}/{key}");
            match found.get(key) {
                Some(found) => same(expected, found, &at),
                None => bail!("{at}: missing"),
            }
        }),
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            let mut pairs = expected.iter().zip(found).enumerate();
            pairs.try_for_each(|(index, (expected, found))| same(expected, found, &format!("{at}/{index}")))
        }
        (expected, found) if expected == found => Ok(()),
        (expected, found) => bail!("{at}: {expected} was expected, found {found}"),
    }
}

fn is_pattern(text: &str) -> bool {
    text.starts_with('<') && text.ends_with('>')
}

/// The README of the folder lists the patterns.
fn fits(pattern: &str, found: &Value) -> bool {
    let text = found.as_str().unwrap_or_default();
    match pattern {
        "<any>" => true,
        "<text>" => !text.is_empty(),
        "<number>" => found.is_u64(),
        "<positive>" => found.as_u64().is_some_and(|number| number > 0),
        "<time>" => serde_json::from_value::<Time>(found.clone()).is_ok(),
        "<host>" => HostId::new(text).is_ok(),
        "<code>" => text.split_once('-').is_some_and(|(one, other)| !one.is_empty() && !other.is_empty()),
        "<envelope>" => serde_json::from_value::<Envelope>(found.clone()).is_ok(),
        "<envelopes>" => serde_json::from_value::<Vec<Envelope>>(found.clone()).is_ok_and(|all| !all.is_empty()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_than_was_expected_is_fine_and_less_is_not() {
        let expected = json!({"host": "<host>", "next": {"hold_s": "<number>"}, "list": [1, "<any>"]});
        let found = json!({"host": "hst_abcd", "next": {"hold_s": 0, "new": 1}, "list": [1, null], "later": true});
        same(&expected, &found, "").unwrap();
        for (wrong, word) in [
            (json!({"host": "hst_abcd", "next": {}, "list": [1, 2]}), "/next/hold_s: missing"),
            (json!({"host": "7", "next": {"hold_s": 1}, "list": [1, 2]}), "/host: <host>"),
            (json!({"host": "hst_abcd", "next": {"hold_s": 1}, "list": [1]}), "/list"),
            (json!({"host": "hst_abcd", "next": {"hold_s": 1}, "list": [2, 2]}), "/list/0"),
        ] {
            let refused = same(&expected, &wrong, "").unwrap_err().to_string();
            assert!(refused.contains(word), "{refused}");
        }
        assert!(same(&json!("<no such pattern>"), &json!("x"), "").is_err());
    }
}
