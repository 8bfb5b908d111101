//! Another agentd on the same home: the services stay, the edge is followed by one of the new program on the same
//! sockets, and no request notices.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use agentd_tests::{World, program};

const CLIENTS: usize = 4;

/// Another file with the same content is another program.
fn copy(world: &World, name: &str) -> PathBuf {
    let to = world.dir().join(name);
    std::fs::copy(program("agentd"), &to).unwrap();
    to
}

/// Asks until told to stop; each request on a connection of its own, or all on one.
fn client(port: u16, fresh: bool, over: &AtomicBool, asked: &AtomicU32) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut failed = Vec::new();
        let idle = if fresh { 0 } else { 1 };
        let client = agentd_sys::http::plain().pool_max_idle_per_host(idle).build().unwrap();
        while !over.load(Ordering::Relaxed) {
            asked.fetch_add(1, Ordering::Relaxed);
            match client.get(format!("http://127.0.0.1:{port}/")).send().await {
                Ok(answer) if answer.status() == 200 => drop(answer.bytes().await),
                Ok(answer) => failed.push(answer.status().to_string()),
                Err(error) => failed.push(format!("{error:?}")),
            }
        }
        failed
    })
}

#[test]
fn no_request_fails_while_another_agentd_takes_over() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&format!(
        "[[service]]\nname = \"api\"\nrepo = \"{}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/\"\n",
        repo.url()
    ));
    world.start_program(&mut Command::new(copy(&world, "before")), &[], &[]);
    world.applied();
    world.serves("/", "v1");
    let (edge, service) = (world.status().edge.pid, world.service("api").instances[0].pid);

    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (port, over, asked) = (world.port, Arc::clone(&over), Arc::clone(&asked));
            let ask = move || client(port, number % 2 == 0, &over, &asked);
            std::thread::Builder::new().name("client".to_owned()).spawn(ask).unwrap()
        })
        .collect();
    let enough = |world: &World, count: u32| {
        let target = asked.load(Ordering::Relaxed) + count;
        world.until("requests were made", |_| asked.load(Ordering::Relaxed) >= target);
    };
    enough(&world, 100);
    world.end_manager();
    world.start_program(&mut Command::new(copy(&world, "after")), &[], &[]);
    let gone = |pid: Option<u32>| pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
    world.until("the old edge has gone", |_| gone(edge));
    enough(&world, 100);
    over.store(true, Ordering::Relaxed);
    let failed: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(failed, [""; 0], "of {} requests", asked.load(Ordering::Relaxed));

    let status = world.applied();
    assert!(status.edge.pid.is_some() && status.edge.pid != edge, "{:?} was {edge:?}", status.edge);
    assert_eq!(world.service("api").instances[0].pid, service, "the service knows nothing of it");
    // The same program again is no reason for another edge.
    world.kill_manager();
    world.start_program(&mut Command::new(world.dir().join("after")), &[], &[]);
    world.applied();
    assert_eq!(world.status().edge.pid, status.edge.pid);
    // And the new one is told of new services.
    world.stack(&format!(
        "[[service]]\nname = \"api\"\nrepo = \"{}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/moved\"\n",
        repo.url()
    ));
    world.serves("/moved", "v1");
    world.down();
}
