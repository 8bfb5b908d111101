//! A stack as a person would have written it, so that what came from elsewhere passes the very rules of a written one.

use serde_json::{Map, Value, json};

use crate::keys::{self, Absent};
use crate::stack::{Health, Kind, Revision, Service, Span, Stack, StopSignal};
use crate::validate::{Locus, Problem, validate};

/// The tree that [`validate`] reads: every key that may stand there, none that may not unless the stack has it.
pub fn tree(stack: &Stack) -> Value {
    // Taken apart without `..`, so that a new field cannot be forgotten here.
    let Stack { schema, stack: section, proxy, security, service } = stack;
    let mut root = Map::new();
    root.insert("schema".into(), json!(schema));
    root.insert("stack".into(), json!({ "name": section.name, "poll_interval": section.poll_interval }));
    let mut table = Map::from_iter([("port".to_owned(), json!(proxy.port))]);
    put(&mut table, "health_path", proxy.health_path.as_ref());
    root.insert("proxy".into(), Value::Object(table));
    put(&mut root, "security", security.as_ref());
    root.insert("service".into(), service.iter().map(entry).collect());
    Value::Object(root)
}

/// What is wrong with a stack that was read from its published form, by the rules of a written document; a branch in the
/// place of a commit, too, since agents run commits only.
pub fn check(stack: &Stack) -> Result<(), Vec<Problem>> {
    let followed: Vec<Problem> =
        stack.service.iter().enumerate().filter_map(|(index, entry)| follows(index, entry)).collect();
    if !followed.is_empty() {
        return Err(followed);
    }
    if validate(&tree(stack))? == *stack {
        return Ok(());
    }
    Err(vec![Problem {
        pointer: String::new(),
        key: String::new(),
        found: "a document that means something else once it is read by the rules".to_owned(),
        expected: "the form that a validated document has".to_owned(),
        nearest: None,
        at: Locus::Value,
    }])
}

fn follows(index: usize, entry: &Service) -> Option<Problem> {
    match &entry.source {
        Revision::Commit(_) => None,
        Revision::Ref(_) => Some(Problem {
            pointer: format!("/service/{index}/ref"),
            key: "service.ref".to_owned(),
            found: format!("a branch or tag in service \"{}\"", entry.name),
            expected: "a commit: whoever publishes resolves it".to_owned(),
            nearest: None,
            at: Locus::Key,
        }),
    }
}

fn entry(service: &Service) -> Value {
    let Service {
        name,
        kind,
        repo,
        source,
        dir,
        git_auth,
        build,
        run,
        root,
        fallback,
        port,
        host,
        path,
        strip_prefix,
        public,
        replicas,
        depends_on,
        env,
        env_file,
        health,
        start_deadline,
        restart,
        stop,
        drain,
    } = service;
    let mut entry = Map::new();
    entry.insert("name".into(), json!(name));
    entry.insert("kind".into(), json!(kind));
    entry.insert("repo".into(), json!(repo));
    match source {
        Revision::Ref(name) => entry.insert("ref".into(), json!(name)),
        Revision::Commit(commit) => entry.insert("commit".into(), json!(commit)),
    };
    for (key, text) in [
        ("dir", dir),
        ("git_auth", git_auth),
        ("build", build),
        ("run", run),
        ("root", root),
        ("fallback", fallback),
        ("host", host),
        ("path", path),
        ("env_file", env_file),
    ] {
        put(&mut entry, key, text.as_ref());
    }
    put(&mut entry, "port", port.as_ref());
    entry.insert("strip_prefix".into(), json!(strip_prefix));
    entry.insert("public".into(), json!(public));
    entry.insert("replicas".into(), json!(replicas));
    put(&mut entry, "depends_on", Some(depends_on).filter(|names| !names.is_empty()));
    put(&mut entry, "env", Some(env).filter(|values| !values.is_empty()));
    put(&mut entry, "health", gate(health.as_ref(), *start_deadline).as_ref());
    entry.insert("drain".into(), json!(drain));
    // A static site has no program: these stand there only where they are not what is filled in, and are refused then.
    let is_site = *kind == Kind::Static;
    let restart = json!(restart);
    if !is_site || Some(restart.as_str().unwrap_or_default()) != default_text("service.restart") {
        entry.insert("restart".into(), restart);
    }
    let usual_stop = stop.signal == StopSignal::Term && Some(stop.timeout) == default_span("service.stop.timeout");
    if !is_site || !usual_stop {
        entry.insert("stop".into(), json!({ "signal": stop.signal, "timeout": stop.timeout }));
    }
    Value::Object(entry)
}

fn gate(health: Option<&Health>, start_deadline: Span) -> Option<Value> {
    let Some(Health { path, host, interval, timeout, failures, restart }) = health else {
        let is_usual = Some(start_deadline) == default_span("service.health.start_deadline");
        return (!is_usual).then(|| json!({ "start_deadline": start_deadline }));
    };
    let mut table = Map::new();
    table.insert("path".into(), json!(path));
    put(&mut table, "host", host.as_ref());
    table.insert("interval".into(), json!(interval));
    table.insert("timeout".into(), json!(timeout));
    table.insert("failures".into(), json!(failures));
    table.insert("restart".into(), json!(restart));
    table.insert("start_deadline".into(), json!(start_deadline));
    Some(Value::Object(table))
}

fn put(table: &mut Map<String, Value>, key: &str, value: Option<&impl serde::Serialize>) {
    if let Some(value) = value {
        table.insert(key.to_owned(), json!(value));
    }
}

fn default_text(name: &str) -> Option<&'static str> {
    match keys::find(name)?.absent {
        Absent::Text(text) => Some(text),
        Absent::Required | Absent::Nothing(_) | Absent::Bool(_) | Absent::Integer(_) => None,
    }
}

fn default_span(name: &str) -> Option<Span> {
    default_text(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Commit;

    fn written(services: Value) -> Stack {
        let tree = json!({
            "schema": 1, "stack": { "name": "shop", "poll_interval": "90s" },
            "proxy": { "port": 8081, "health_path": "/-/healthy" },
            "security": { "mode": "daemon-port", "ssh": ["203.0.113.0/24"] }, "service": services,
        });
        validate(&tree).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn many() -> Stack {
        let repo = "https://git.example.com/shop/api";
        let commit = "1".repeat(40);
        written(json!([
            { "name": "api", "repo": repo, "commit": commit, "run": "./run", "dir": "apps/api", "git_auth": "key",
              "build": "make", "host": "api.example.com", "path": "/api", "strip_prefix": true, "replicas": 2,
              "depends_on": ["job"], "env": { "A": "", "B": "two\nlines" }, "env_file": "/etc/agentd/api.env",
              "health": { "path": "/healthz", "host": "x.test", "start_deadline": "5m", "failures": 7, "restart": false },
              "restart": "on-failure", "stop": { "signal": "SIGINT", "timeout": "1s" }, "drain": "0s" },
            { "name": "fixed", "repo": repo, "commit": commit, "run": "./run", "port": 3000, "path": "/", "public": false,
              "health": { "start_deadline": "2m" } },
            { "name": "job", "repo": "git@git.example.com:shop/job.git", "commit": commit, "kind": "worker", "run": "./w" },
            { "name": "site", "repo": repo, "commit": commit, "kind": "static", "root": "dist", "fallback": "index.html",
              "path": "/site", "build": "npm ci" },
            { "name": "bare", "repo": repo, "commit": commit, "kind": "static" },
        ]))
    }

    #[test]
    fn what_was_read_is_written_and_read_as_the_same() {
        let stack = many();
        assert_eq!(validate(&tree(&stack)).unwrap(), stack);
        assert_eq!(check(&stack), Ok(()));
        let empty = validate(&json!({ "schema": 1, "stack": { "name": "shop" } })).unwrap();
        assert_eq!(validate(&tree(&empty)).unwrap(), empty);
    }

    #[test]
    fn branches_are_refused_and_named() {
        let mut stack = many();
        stack.service[1].source = Revision::Ref("main".into());
        let told = check(&stack).unwrap_err();
        assert_eq!((told.len(), told[0].pointer.as_str()), (1, "/service/1/ref"));
        assert!(told[0].to_string().contains("\"fixed\""), "{}", told[0]);
    }

    #[test]
    fn what_nobody_could_have_written_is_refused() {
        let bends: [fn(&mut Stack); 12] = [
            |stack| stack.service[0].repo = "/etc/shadow".into(),
            |stack| stack.service[0].dir = Some("../..".into()),
            |stack| stack.service[0].name = stack.service[1].name.clone(),
            |stack| stack.service[0].run = None,
            |stack| stack.service[0].replicas = 9_999,
            |stack| stack.service[0].env_file = Some("relative".into()),
            |stack| stack.service[2].path = Some("/".into()),
            |stack| stack.service[3].run = Some("sh".into()),
            |stack| stack.service[3].restart = crate::stack::Restart::Never,
            |stack| stack.service[4].stop.timeout = Span::from_secs(7),
            |stack| stack.schema = 2,
            |stack| stack.service[1].depends_on = vec![stack.service[1].name.clone()],
        ];
        for (index, bend) in bends.into_iter().enumerate() {
            let mut stack = many();
            bend(&mut stack);
            assert!(check(&stack).is_err(), "{index}");
        }
    }

    proptest! {
        #[test]
        fn any_sound_entry_comes_back(
            (port, replicas, drain_ms, deadline_s) in (1_u16.., 1_u32..=64, 0_u64..3_600_000, 1_u64..86_400),
            (strip_prefix, public, probed) in any::<(bool, bool, bool)>(), env in "[ -~]{0,20}", commit in "[0-9a-f]{40}",
        ) {
            let mut stack = many();
            stack.proxy.port = port;
            let entry = &mut stack.service[0];
            (entry.replicas, entry.strip_prefix, entry.public) = (replicas, strip_prefix, public);
            entry.drain = Span(std::time::Duration::from_millis(drain_ms));
            entry.start_deadline = Span::from_secs(deadline_s);
            entry.source = Revision::Commit(Commit::new(commit).unwrap());
            entry.env.insert("KEY".into(), env);
            if !probed {
                entry.health = None;
            }
            prop_assert_eq!(check(&stack), Ok(()));
        }
    }
}
