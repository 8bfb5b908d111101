//! Every fault a user or a host can make: it is named in a sentence, has its exit code or state, and the healthy
//! service beside it goes on answering.

mod build;
mod document;
mod home;
mod process;
mod request;
mod secret;
mod source;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use agentd_protocol::api::{Problem, Verdict};
use agentd_tests::World;

/// Longest silence of the edge on a connection it should have answered and closed.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// A service of the usual Python program at `/NAME`.
fn service(name: &str, repo: &str, more: &str) -> String {
    let run = if more.contains("run =") { "" } else { "run = \"python3 web.py\"\n" };
    let source = if more.contains("commit =") { "" } else { "ref = \"main\"\n" };
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"{repo}\"\npath = \"/{name}\"\ndrain = \"2s\"\n{source}{run}{more}\n"
    )
}

/// The healthy service that no fault may disturb.
fn good(world: &World) -> String {
    let repo = world.dir().join("repos/good");
    if !repo.exists() {
        world.web_repo("good", "g1");
    }
    service("good", &format!("file://{}", repo.display()), "health = { path = \"/healthz\" }")
}

/// A running world with the healthy service alone.
fn healthy() -> World {
    let mut world = World::new();
    world.stack(&good(&world));
    world.start();
    world.applied();
    undisturbed(&world);
    world
}

#[track_caller]
fn undisturbed(world: &World) {
    let answer = world.get("/good");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["version"], "g1");
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

/// Waits until `bad` is in trouble with these words, which status must show and end degraded for.
#[track_caller]
fn trouble(world: &World, words: &[&str]) -> Problem {
    let find = |world: &World| {
        let problems = world.status().stack.problems;
        problems.into_iter().find(|problem| {
            problem.service.as_ref().is_some_and(|name| name.as_str() == "bad")
                && words.iter().all(|word| problem.cause.contains(word))
        })
    };
    world.until(&format!("`bad` is said to be in trouble with {words:?}"), |world| find(world).is_some());
    let told = world.ctl(&["status"]);
    assert_eq!(told.code, 6, "{told:?}");
    says(&told.stdout, words);
    undisturbed(world);
    let problem = find(world).expect("it stays in trouble until something changes");
    assert_eq!(world.status().stack.verdict, Verdict::Degraded);
    problem
}

/// What the edge answers to these very bytes.
fn raw(world: &World, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).unwrap();
    stream.set_read_timeout(Some(READ_LIMIT)).unwrap();
    // The edge may have answered and closed before it has taken all of an oversized request.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if answer.is_empty() => panic!("no answer: {error}"),
            // A reset after the answer: bytes of ours were left unread.
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}
