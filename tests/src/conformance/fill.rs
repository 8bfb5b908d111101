//! Placeholders: `${name}` in a text, a file in the place of an object, one element many times. Pure but for the files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

pub(super) type Values = BTreeMap<String, Value>;

/// A text that is one placeholder and nothing else becomes the value, with its type.
pub(super) fn text(template: &str, values: &Values) -> Result<Value> {
    let whole = template.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if let Some(name) = whole.filter(|name| !name.contains('$')) {
        return value(name, values).cloned();
    }
    plain(template, values).map(Value::String)
}

pub(super) fn plain(template: &str, values: &Values) -> Result<String> {
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').with_context(|| format!("`{template}`: a placeholder has no end"))?;
        out.push_str(before);
        match value(name, values)? {
            Value::String(text) => out.push_str(text),
            other => out.push_str(&other.to_string()),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value<'a>(name: &str, values: &'a Values) -> Result<&'a Value> {
    values.get(name).with_context(|| format!("nothing is called `{name}` yet"))
}

/// Files are looked up below `dir`.
pub(super) fn tree(template: &Value, values: &Values, dir: &Path) -> Result<Value> {
    match template {
        Value::String(template) => text(template, values),
        Value::Array(entries) => entries.iter().map(|entry| tree(entry, values, dir)).collect(),
        Value::Object(entries) if entries.contains_key("$file") => from_file(entries, values, dir),
        Value::Object(entries) if entries.contains_key("$repeat") => repeated(entries, values, dir),
        Value::Object(entries) => {
            let filled = entries.iter().map(|(key, entry)| Ok((key.clone(), tree(entry, values, dir)?)));
            filled.collect::<Result<Map<_, _>>>().map(Value::Object)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(template.clone()),
    }
}

/// `{"$file": PATH, "with": {..}}`: what stands in `with` takes the place of the file's keys; `null` takes them away.
fn from_file(entries: &Map<String, Value>, values: &Values, dir: &Path) -> Result<Value> {
    let name = entries.get("$file").and_then(Value::as_str).context("`$file` is the name of a file")?;
    let path = dir.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut template: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    if let (Some(with), Some(keys)) = (entries.get("with").and_then(Value::as_object), template.as_object_mut()) {
        for (key, entry) in with {
            match entry {
                Value::Null => keys.shift_remove(key),
                entry => keys.insert(key.clone(), entry.clone()),
            };
        }
    }
    tree(&template, values, dir)
}

/// `{"$repeat": COUNT, "of": {..}}`: an array, in whose elements `${n}` counts from 1.
fn repeated(entries: &Map<String, Value>, values: &Values, dir: &Path) -> Result<Value> {
    let (Some(count), Some(of)) = (entries.get("$repeat").and_then(Value::as_u64), entries.get("of")) else {
        bail!("`$repeat` is a number, and `of` says of what");
    };
    let mut values = values.clone();
    let one = |number: u64| {
        values.insert("n".to_owned(), number.into());
        // Twelve digits end an identifier of an event.
        values.insert("n12".to_owned(), format!("{number:012}").into());
        tree(of, &values, dir)
    };
    (1..=count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders_keep_their_types() {
        let values = Values::from([("a".to_owned(), json!(7)), ("b".to_owned(), json!("x"))]);
        let template = json!({"n": "${a}", "t": "${b}-${a}", "plain": [true, "y"]});
        let filled = tree(&template, &values, Path::new("/")).unwrap();
        assert_eq!(filled, json!({"n": 7, "t": "x-7", "plain": [true, "y"]}));
        assert!(tree(&json!("${c}"), &values, Path::new("/")).is_err());
        assert!(plain("${a", &values).is_err());
    }

    #[test]
    fn files_and_repeats_unfold() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("one.json"), r#"{"seq": 1, "gone": 2, "text": "${b}"}"#).unwrap();
        let values = Values::from([("b".to_owned(), json!("x"))]);
        let template = json!({"$file": "one.json", "with": {"seq": 2, "gone": null}});
        assert_eq!(tree(&template, &values, dir.path()).unwrap(), json!({"seq": 2, "text": "x"}));
        let template = json!({"$repeat": 2, "of": {"seq": "${n}", "id": "z${n12}"}});
        let filled = tree(&template, &values, dir.path()).unwrap();
        assert_eq!(filled, json!([{"seq": 1, "id": "z000000000001"}, {"seq": 2, "id": "z000000000002"}]));
    }
}
