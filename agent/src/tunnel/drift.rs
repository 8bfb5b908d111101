//! Where the tunnel leads by the program's own word, compared with where it should (pure). Whoever holds the account can
//! lead a tunnel to any address of this host: it cannot be kept from there, so it is said.

use serde::Deserialize;

use super::command::origin;

/// Origins that are named; the others are counted.
const NAMED_MAX: usize = 5;
/// Of one origin, characters.
const ORIGIN_CHARS_MAX: usize = 80;

/// Of `GET /config`.
#[derive(Debug, Deserialize)]
struct Answer {
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    ingress: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    service: String,
}

/// What the settings of this host say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) origin_port: u16,
    /// `None`: the dashboard says them.
    pub(super) hostnames: Option<Vec<String>>,
}

/// `None`: no drift, or not to be told from the answer.
pub(super) fn drift(answer: &[u8], wanted: &Wanted) -> Option<String> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let rules = answer.config.ingress.unwrap_or_default();
    let leads_here = |rule: &&Rule| is_here(&rule.service, wanted.origin_port);
    let harmless =
        |rule: &&Rule| leads_here(rule) || rule.service.is_empty() || rule.service.starts_with("http_status:");
    let elsewhere = rules.iter().filter(|rule| !harmless(rule)).map(|rule| shown(&rule.service));
    let known = |name: &str| wanted.hostnames.iter().flatten().any(|known| known.eq_ignore_ascii_case(name));
    let others = rules.iter().filter(leads_here).filter(|rule| wanted.hostnames.is_some() && !known(&rule.hostname));
    let names = others.map(|rule| if rule.hostname.is_empty() { "any host".to_owned() } else { shown(&rule.hostname) });
    let parts = [("leads to ", listed(elsewhere)), ("takes requests for ", listed(names))];
    let said: Vec<String> =
        parts.into_iter().filter_map(|(words, list)| list.map(|list| format!("{words}{list}"))).collect();
    (!said.is_empty()).then(|| format!("{}, which no setting of this host asks for", said.join("; ")))
}

fn is_here(service: &str, port: u16) -> bool {
    let service = service.strip_suffix('/').unwrap_or(service);
    service == origin(port) || service == format!("http://localhost:{port}")
}

fn listed(names: impl Iterator<Item = String>) -> Option<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let list = names.join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(list),
        (false, more) => Some(format!("{list} and {more} more")),
    }
}

/// Without what a person may have written before an @, and what a terminal would take as an order.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let joined = if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") };
    joined.chars().filter(|letter| !letter.is_control()).take(ORIGIN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rules: &str, hostnames: Option<&[&str]>) -> Option<String> {
        let answer = format!(
            "{{\"version\":3,\"config\":{{\"ingress\":[{rules}],\"warp-routing\":{{}},\"originRequest\":{{}}}}}}"
        );
        let hostnames = hostnames.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        drift(answer.as_bytes(), &Wanted { origin_port: 8080, hostnames })
    }

    const OURS: &str = r#"{"hostname":"a.test","service":"http://127.0.0.1:8080"},{"service":"http_status:404"}"#;

    #[test]
    fn what_we_asked_for_is_no_drift() {
        assert_eq!(said(OURS, Some(&["a.test"])), None);
        assert_eq!(said(OURS, None), None);
        assert_eq!(said(r#"{"service":"http://localhost:8080/"}"#, None), None);
        assert_eq!(said("", None), None);
        let wanted = Wanted { origin_port: 1, hostnames: None };
        for odd in ["", "null", "[]", "{\"config\":{}}", "{\"config\":{\"ingress\":null}}"] {
            assert_eq!(drift(odd.as_bytes(), &wanted), None, "{odd}");
        }
    }

    #[test]
    fn other_origins_and_hosts_are_named_without_their_secrets() {
        let text =
            said(&format!(r#"{OURS},{{"hostname":"s.test","service":"ssh://me:hush@localhost:22\u001b"}}"#), None);
        assert_eq!(text.unwrap(), "leads to ssh://localhost:22, which no setting of this host asks for");
        let text = said(OURS, Some(&["b.test"])).unwrap();
        assert!(text.starts_with("takes requests for a.test,"), "{text}");
        let many: Vec<String> = (0..9).map(|port| format!(r#"{{"service":"tcp://10.0.0.1:{port}"}}"#)).collect();
        assert!(said(&many.join(","), None).unwrap().contains("and 4 more"));
        assert!(said(r#"{"service":"http://127.0.0.1:80800"}"#, None).is_some(), "a longer port is another");
    }
}
