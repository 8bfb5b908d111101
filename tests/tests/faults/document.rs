//! Faults of the stack file.

use agentd_protocol::api::Verdict;
use agentd_tests::{Ran, World, free_port};

use super::{good, healthy, says, service, undisturbed};

/// Line of the first service, the common head before it.
const FIRST_LINE: usize = 7;

struct Fault {
    name: &'static str,
    services: String,
    line: usize,
    words: &'static [&'static str],
}

/// What stands after the healthy service; the line is where `mark` stands.
fn fault(world: &World, name: &'static str, bad: &str, mark: &str, words: &'static [&'static str]) -> Fault {
    let services = good(world) + bad;
    let offset = services.lines().enumerate().filter(|(_, line)| line.contains(mark)).last().unwrap().0;
    Fault { name, line: FIRST_LINE + offset, services, words }
}

fn faults(world: &World) -> Vec<Fault> {
    let url = "file:///srv/none";
    let port = free_port();
    let fixed = format!("port = {port}");
    vec![
        fault(world, "unknown key", &service("bad", url, "helth = { path = \"/\" }"), "helth", &["helth", "health"]),
        fault(
            world,
            "wrong type",
            &service("bad", url, "replicas = \"two\""),
            "replicas",
            &["replicas", "found a string", "expected a whole number"],
        ),
        fault(
            world,
            "duplicate name",
            &service("good", url, "").replace("path = \"/good\"", "path = \"/other\""),
            "name = \"good\"",
            &["name", "good"],
        ),
        fault(
            world,
            "duplicate route",
            &service("bad", url, "").replace("path = \"/bad\"", "path = \"/good\""),
            "path = \"/good\"",
            &["path", "/good", "good"],
        ),
        fault(
            world,
            "duplicate port",
            &(service("one", url, &fixed) + &service("bad", url, &fixed)),
            "port = ",
            &["port", "one"],
        ),
        fault(world, "bad label", &service("Bad_Name", url, ""), "name = \"Bad_Name\"", &["name", "Bad_Name", "a-z"]),
    ]
}

fn assert_refused(ran: &Ran, said: &str, fault: &Fault) {
    assert_eq!(ran.code, 3, "{}: {ran:?}", fault.name);
    says(said, &[&format!("stack.toml:{}:", fault.line)]);
    says(said, fault.words);
}

#[test]
fn what_does_not_validate_is_refused_by_line_with_exit_code_3() {
    let world = World::new();
    for fault in faults(&world) {
        world.stack(&fault.services);
        let checked = world.ctl(&["check", world.stack_file.to_str().unwrap()]);
        assert_refused(&checked, &checked.stdout, &fault);
        let run = world.run_to_end(&[]);
        assert_refused(&run, &run.stderr, &fault);
        assert!(world.processes().is_empty(), "{}: nothing was started", fault.name);
    }
}

#[test]
fn a_bad_edit_leaves_the_last_version_serving_and_a_good_one_is_applied() {
    let mut world = healthy();
    let pid = world.service("good").instances[0].pid;
    let version = world.status().stack.version.unwrap();
    for fault in faults(&world) {
        world.stack(&fault.services);
        world.until(fault.name, |world| {
            let problem = world.status().stack.file_problem.unwrap_or_default();
            problem.contains(&format!("stack.toml:{}:", fault.line))
                && fault.words.iter().all(|word| problem.contains(word))
        });
        let told = world.ctl(&["status"]);
        assert_eq!(told.code, 6, "{told:?}");
        says(&told.stdout, &[&format!("stack.toml:{}:", fault.line)]);
        let status = world.status();
        assert_eq!((status.stack.verdict, status.stack.version), (Verdict::Degraded, Some(version)));
        undisturbed(&world);
    }
    let more = world.web_repo("more", "m1");
    world.stack(&(good(&world) + &service("more", &more.url(), "")));
    world.serves("/more", "m1");
    assert!(world.applied().stack.file_problem.is_none());
    assert_eq!(world.ctl(&["status"]).code, 0);
    assert_eq!(world.service("good").instances[0].pid, pid, "never restarted");
    world.down();
}

#[test]
fn a_deleted_file_changes_nothing_and_is_applied_once_it_is_back() {
    let mut world = healthy();
    std::fs::remove_file(&world.stack_file).unwrap();
    world.until("the file is missed", |world| world.status().stack.file_problem.is_some());
    let told = world.ctl(&["status"]);
    assert_eq!(told.code, 6);
    says(&told.stdout, &["stack.toml", "no such file", "the last version stays in force"]);
    undisturbed(&world);
    // A start without it goes on from the last version, too.
    world.kill_manager();
    world.start();
    undisturbed(&world);
    world.until("the file is missed again", |world| world.status().stack.verdict == Verdict::Degraded);
    let more = world.web_repo("more", "m1");
    world.stack(&(good(&world) + &service("more", &more.url(), "")));
    world.serves("/more", "m1");
    world.applied();
    undisturbed(&world);
    world.down();
}

#[test]
fn a_half_written_file_is_not_applied_and_the_whole_one_is() {
    let mut world = healthy();
    let more = world.web_repo("more", "m1");
    world.stack(&(good(&world) + &service("more", &more.url(), "")));
    let whole = std::fs::read_to_string(&world.stack_file).unwrap();
    world.serves("/more", "m1");
    let version = world.applied().stack.version;
    // Cut in the middle of the second service's repository, written in place as a slow copy would.
    let cut = whole.rfind("repos/more").unwrap();
    std::fs::write(&world.stack_file, &whole[..cut]).unwrap();
    world.until("the half is refused", |world| world.status().stack.file_problem.is_some());
    let line = whole[..cut].lines().count();
    says(&world.status().stack.file_problem.unwrap(), &[&format!("stack.toml:{line}:")]);
    assert_eq!(world.status().stack.version, version);
    undisturbed(&world);
    assert_eq!(world.get("/more").status, 200, "a service of the missing half runs on");
    std::fs::write(&world.stack_file, &whole).unwrap();
    assert_eq!(world.applied().stack.version, version, "the same content is the same version");
    world.down();
}

#[test]
fn a_stack_file_that_is_not_there_at_the_first_start_is_named() {
    let world = World::new();
    let run = world.run_to_end(&[]);
    assert_eq!(run.code, 3, "{run:?}");
    says(&run.stderr, &["stack.toml", "cannot be read", "No such file"]);
}
