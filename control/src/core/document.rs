//! The text of a draft: values of env variables are taken out of it, and put back only to publish. Pure.

use std::collections::{BTreeMap, BTreeSet};

use agentd_document::{DUPLICATE_KEY, Format, Located, read};
use agentd_protocol::stack::Stack;
use agentd_protocol::validate::{PROBLEMS_MAX, UNKNOWN_KEY};
use toml_edit::{DocumentMut, Item, TableLike, Value as TomlValue};
use zeroize::Zeroizing;

use crate::model::{DraftFormat, DraftProblem, KEPT};

/// Service and name of a variable.
pub(super) type Variable = (String, String);
pub(super) type Values = BTreeMap<Variable, Zeroizing<String>>;

/// A text without values.
pub(super) struct Taken {
    pub text: String,
    /// New or changed ones.
    pub values: Values,
    /// Those that stay as they are stored.
    pub kept: BTreeSet<Variable>,
}

pub(super) fn format_of(format: DraftFormat) -> Format {
    match format {
        DraftFormat::Toml => Format::Toml,
        DraftFormat::Json => Format::Json,
    }
}

/// Everything below `service[].env` becomes the marker. What cannot be taken apart with certainty is refused, since it
/// could hold a value.
pub(super) fn take(text: &str, format: DraftFormat) -> Result<Taken, Vec<DraftProblem>> {
    let taken = match format {
        DraftFormat::Toml => take_toml(text),
        DraftFormat::Json => take_json(text),
    };
    let all = read(text, format_of(format)).err().unwrap_or_default();
    let hiding: Vec<DraftProblem> = all.iter().filter(|one| may_hide(one)).cloned().map(located).collect();
    match taken {
        // Of more problems than are told, nobody knows what they are.
        Ok(taken) if hiding.is_empty() && all.len() < PROBLEMS_MAX => Ok(taken),
        Ok(_) if !hiding.is_empty() => Err(hiding),
        Ok(_) => Err(all.into_iter().map(located).collect()),
        Err(unclear) if all.is_empty() => Err(vec![problem(unclear.pointer, unclear.text)]),
        Err(_) => Err(all.into_iter().map(located).collect()),
    }
}

/// A misspelt `env` holds values as well, of a key that stands twice one was not looked at, and where there are too many
/// services, the last were not.
fn may_hide(one: &Located) -> bool {
    [UNKNOWN_KEY, DUPLICATE_KEY].contains(&one.problem.found.as_str()) || one.problem.pointer == "/service"
}

/// All that keeps a text from being a document.
pub(super) fn problems(text: &str, format: DraftFormat) -> Vec<DraftProblem> {
    read(text, format_of(format)).err().unwrap_or_default().into_iter().map(located).collect()
}

pub(super) fn parse(text: &str, format: DraftFormat) -> Result<Stack, Vec<DraftProblem>> {
    read(text, format_of(format)).map_err(|problems| problems.into_iter().map(located).collect())
}

fn located(one: Located) -> DraftProblem {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    DraftProblem {
        line: number(one.line),
        column: number(one.column),
        text: one.problem.to_string(),
        pointer: one.problem.pointer,
        key: one.problem.key,
        nearest: one.problem.nearest,
    }
}

pub(super) fn problem(pointer: String, text: String) -> DraftProblem {
    let key = pointer.trim_start_matches('/').replace('/', ".");
    DraftProblem { line: 0, column: 0, pointer, key, text, nearest: None }
}

/// Why a text cannot be taken apart.
struct Unclear {
    pointer: String,
    text: String,
}

fn unclear<T>(pointer: String, text: &str) -> Result<T, Unclear> {
    Err(Unclear { pointer, text: text.to_owned() })
}

/// Collects what is found, service by service.
#[derive(Default)]
struct Collector {
    values: Values,
    kept: BTreeSet<Variable>,
    seen: BTreeSet<String>,
}

impl Collector {
    fn service(&mut self, index: usize, name: Option<&str>, has_env: bool) -> Result<Option<String>, Unclear> {
        if !has_env {
            return Ok(None);
        }
        let pointer = format!("/service/{index}/name");
        let Some(name) = name else { return unclear(pointer, "a service with env needs its name") };
        if !self.seen.insert(name.to_owned()) {
            return unclear(pointer, "two services with env have the same name");
        }
        Ok(Some(name.to_owned()))
    }

    fn value(&mut self, service: &str, name: &str, value: &str) {
        let variable = (service.to_owned(), name.to_owned());
        if value == KEPT {
            self.kept.insert(variable);
        } else {
            self.values.insert(variable, Zeroizing::new(value.to_owned()));
        }
    }

    fn taken(self, text: String) -> Taken {
        Taken { text, values: self.values, kept: self.kept }
    }
}

const NOT_TEXTS: &str = "env holds names and values, each value a text in quotes";
const NOT_SERVICES: &str = "services are written as [[service]]";

fn take_toml(text: &str) -> Result<Taken, Unclear> {
    let (mark, body) = match text.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let Ok(mut document) = body.parse::<DocumentMut>() else {
        return unclear(String::new(), "the document is not TOML");
    };
    let mut found = Collector::default();
    match document.get_mut("service") {
        None => {}
        Some(Item::ArrayOfTables(tables)) => {
            for (index, table) in tables.iter_mut().enumerate() {
                take_table(index, table, &mut found)?;
            }
        }
        Some(Item::Value(TomlValue::Array(array))) => {
            for (index, value) in array.iter_mut().enumerate() {
                let Some(table) = value.as_inline_table_mut() else {
                    return unclear(format!("/service/{index}"), NOT_SERVICES);
                };
                take_table(index, table, &mut found)?;
            }
        }
        Some(Item::None | Item::Table(_) | Item::Value(_)) => return unclear("/service".to_owned(), NOT_SERVICES),
    }
    let text = format!("{mark}{document}");
    Ok(found.taken(text))
}

fn take_table(index: usize, table: &mut dyn TableLike, found: &mut Collector) -> Result<(), Unclear> {
    let name = table.get("name").and_then(Item::as_str).map(str::to_owned);
    let Some(service) = found.service(index, name.as_deref(), table.contains_key("env"))? else { return Ok(()) };
    let env = table.get_mut("env").and_then(Item::as_table_like_mut);
    let Some(env) = env else { return unclear(format!("/service/{index}/env"), NOT_TEXTS) };
    for (name, item) in env.iter_mut() {
        let pointer = || format!("/service/{index}/env/{}", name.get());
        let Some(value) = item.as_value_mut() else { return unclear(pointer(), NOT_TEXTS) };
        let Some(text) = value.as_str() else { return unclear(pointer(), NOT_TEXTS) };
        found.value(&service, name.get(), text);
        let decor = value.decor().clone();
        *value = TomlValue::from(KEPT);
        *value.decor_mut() = decor;
    }
    Ok(())
}

fn take_json(text: &str) -> Result<Taken, Unclear> {
    let Ok(mut document) = serde_json::from_str::<serde_json::Value>(text) else {
        return unclear(String::new(), "the document is not JSON");
    };
    let mut found = Collector::default();
    let services = match document.get_mut("service") {
        None => return Ok(found.taken(text.to_owned())),
        Some(serde_json::Value::Array(services)) => services,
        Some(_) => return unclear("/service".to_owned(), "services are a list"),
    };
    for (index, service) in services.iter_mut().enumerate() {
        let name = service.get("name").and_then(serde_json::Value::as_str).map(str::to_owned);
        let has_env = service.get("env").is_some();
        let Some(service_name) = found.service(index, name.as_deref(), has_env)? else { continue };
        let Some(env) = service.get_mut("env").and_then(serde_json::Value::as_object_mut) else {
            return unclear(format!("/service/{index}/env"), NOT_TEXTS);
        };
        for (name, value) in env.iter_mut() {
            let Some(text) = value.as_str() else {
                return unclear(format!("/service/{index}/env/{name}"), NOT_TEXTS);
            };
            found.value(&service_name, name, text);
            *value = KEPT.into();
        }
    }
    let text = if found.values.is_empty() {
        text.to_owned()
    } else {
        serde_json::to_string_pretty(&document).expect("it was JSON")
    };
    Ok(found.taken(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"schema = 1
stack.name = "shop"

[[service]]
name = "api" # the API
repo = "https://git.example.com/shop/api"
ref = "main"
run = "./run"
env = { A = "one" , B = "<kept>" } # secrets

[[service]]
name = "web"
repo = "https://git.example.com/shop/web"
ref = "main"
run = "./run"
[service.env]
C = "three" # not to be told
"#;

    fn shown(taken: &Taken) -> Vec<(String, String, String)> {
        taken.values.iter().map(|((s, n), v)| (s.clone(), n.clone(), v.to_string())).collect()
    }

    #[test]
    fn values_leave_the_text_and_comments_stay() {
        let taken = take(TOML, DraftFormat::Toml).unwrap();
        let all = shown(&taken);
        assert_eq!(all, [("api", "A", "one"), ("web", "C", "three")].map(|(a, b, c)| (a.into(), b.into(), c.into())));
        assert!(taken.kept.contains(&("api".to_owned(), "B".to_owned())));
        let expected = TOML.replace("\"one\"", "\"<kept>\"").replace("\"three\"", "\"<kept>\"");
        assert_eq!(taken.text, expected);
        // Saved again as it came back: nothing is new.
        let again = take(&taken.text, DraftFormat::Toml).unwrap();
        assert!(again.values.is_empty() && again.kept.len() == 3 && again.text == taken.text);
    }

    #[test]
    fn every_way_to_write_env_is_seen() {
        for text in [
            "[[service]]\nname = 's'\nenv.K = 'secret'\n",
            "[[service]]\nname = 's'\n[service.env]\nK = '''secret'''\n",
            "service = [{ name = 's', env = { K = \"secret\" } }]\n",
            "[[service]]\n\"env\" = { \"K\" = \"sec\\u0072et\" }\n'name' = 's'\n",
        ] {
            let taken = take(text, DraftFormat::Toml).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(shown(&taken), [("s".into(), "K".into(), "secret".into())], "{text}");
            assert!(!taken.text.contains("secret") && taken.text.contains(KEPT), "{}", taken.text);
        }
        let taken = take(r#"{"service": [{"name": "s", "env": {"K": "secret"}}]}"#, DraftFormat::Json).unwrap();
        assert!(!taken.text.contains("secret") && taken.values.len() == 1);
    }

    #[test]
    fn what_may_hide_a_value_is_refused_without_telling_it() {
        for text in [
            "[[service]\nenv = { K = 'hunter2' }",
            "[service]\nname = 's'\nenv = { K = 'hunter2' }",
            "[[service]]\nenv = { K = 'hunter2' }",
            "[[service]]\nname = 's'\nenv = 'hunter2'",
            "[[service]]\nname = 's'\nenv = { K = ['hunter2'] }",
            "[[service]]\nname = 's'\nenv = { K = 'hunter2' }\n[[service]]\nname = 's'\nenv = { K = 'x' }",
            "[[service]]\nname = 's'\nenvironment = { K = 'hunter2' }",
            "[[services]]\nname = 's'\nenv = { K = 'hunter2' }",
            "[[service]]\nname = 's'\n[env]\nK = 'hunter2'",
        ] {
            let problems = take(text, DraftFormat::Toml).err().unwrap_or_else(|| panic!("{text}"));
            assert!(!problems.is_empty() && !format!("{problems:?}").contains("hunter2"), "{problems:?}");
        }
        for text in [
            r#"{"service": [{"env": {"K": "hunter2"}}]"#,
            r#"{"service": [{"name": "s", "env": {"K": "hunter2", "K": "<kept>"}}]}"#,
            r#"{"service": [{"name": "s", "env": {"K": "hunter2"}, "env": {"K": "<kept>"}}]}"#,
            r#"{"service": [{"name": "s", "env": {"K": "hunter2"}}], "service": []}"#,
            r#"{"service": [{"name": "s", "environ": {"K": "hunter2"}}]}"#,
        ] {
            let problems = take(text, DraftFormat::Json).err().unwrap_or_else(|| panic!("{text}"));
            assert!(!problems.is_empty() && !format!("{problems:?}").contains("hunter2"), "{problems:?}");
        }
    }
}
