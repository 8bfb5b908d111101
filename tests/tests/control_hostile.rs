//! A store that lies: whatever it hands out, the host runs what was signed, answers its users meanwhile, and takes the
//! next true version.

use agentd_protocol::ids::Version;
use agentd_protocol::stack::Stack;
use agentd_protocol::validate::validate;
use agentd_tests::World;
use agentd_tests::fake_control::{FakeControl, Fault};
use serde_json::json;

/// So often a lie is told before it counts as not believed: the second look is one after the first was judged.
const LOOKS: usize = 2;

fn stack(world: &World, url: &str, commit: &str) -> Stack {
    let service = json!({"name": "api", "repo": url, "commit": commit, "run": "python3 web.py", "path": "/"});
    let head = json!({"name": "test", "poll_interval": "1s"});
    validate(&json!({"schema": 1, "stack": head, "proxy": {"port": world.port}, "service": [service]})).unwrap()
}

fn asked(fake: &FakeControl, part: &str) -> usize {
    fake.lock().asked.iter().filter(|path| path.contains(part)).count()
}

/// What the manager believes and runs.
fn in_force(world: &World) -> (Option<Version>, Option<Version>) {
    let control = world.status().control.expect("the host has joined");
    (control.newest, control.applied)
}

/// A host that serves the first of two stacks, as a store handed it out that is still honest.
fn joined() -> (World, FakeControl, [Stack; 2]) {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let first = repo.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let second = repo.commit(&[("web.py", &agentd_tests::web("v2"))]);
    let stacks = [&first, &second].map(|commit| stack(&world, &repo.url(), commit));
    let fake = FakeControl::start();
    fake.publish(&stacks[0]);
    let joined = world.join(&fake.join_string());
    assert_eq!(joined.code, 0, "{joined:?}");
    world.start_joined(&[]);
    world.serves("/", "v1");
    (world, fake, stacks)
}

#[test]
fn whatever_a_store_hands_out_only_what_was_signed_is_applied() {
    let (mut world, fake, [one, two]) = joined();
    world.until("version 1 is applied", |world| in_force(world) == (Some(Version(1)), Some(Version(1))));

    let mut shown = "v1";
    for (part, fault) in [
        ("head.json", Fault::Flip(60)),
        ("head.json", Fault::Truncated),
        ("head.json", Fault::Endless),
        ("head.json", Fault::Status(206)),
        ("head.json", Fault::Status(302)),
        ("head.json", Fault::Status(304)),
        ("head.json", Fault::Status(416)),
        ("/obj/", Fault::Flip(30)),
        ("/obj/", Fault::Truncated),
        ("/obj/", Fault::Endless),
        ("/obj/", Fault::Status(206)),
        ("/obj/", Fault::Status(302)),
    ] {
        let what = format!("{part} {fault:?}");
        let (newest, applied) = in_force(&world);
        assert_eq!(newest, applied, "{what}");
        let before = asked(&fake, part);
        fake.fault(part, fault, u32::MAX);
        let (next, word) = if shown == "v1" { (&two, "v2") } else { (&one, "v1") };
        let version = fake.publish(next);
        world.until(&format!("the host has looked: {what}"), |_| asked(&fake, part) >= before + LOOKS);
        // A statement that is signed is known; it is applied with its objects.
        assert_eq!(in_force(&world).1, applied, "{what}");
        assert!(part == "/obj/" || in_force(&world).0 == newest, "{what}");
        assert_eq!(world.get("/").json()["version"], shown, "{what}");
        fake.mend();
        world.serves("/", word);
        world.until("the true version is applied", |world| in_force(world) == (Some(version), Some(version)));
        shown = word;
    }
    world.down();
}

/// Every byte comes, and none in time: the look is given up, and the next one finds the version.
#[test]
fn a_store_that_drips_is_given_up() {
    let (mut world, fake, [_, second]) = joined();
    let before = asked(&fake, "head.json");
    fake.fault("head.json", Fault::Drip, 1);
    fake.publish(&second);
    world.until("the host looks", |_| asked(&fake, "head.json") > before);
    assert_eq!(world.get("/").json()["version"], "v1");
    world.serves("/", "v2");
    world.down();
}

/// Two years ahead, and two years behind: nothing it hands out is taken, everything is told to it, and people are told why.
#[test]
fn a_server_whose_clock_is_years_off_changes_nothing_and_hears_everything() {
    const YEARS_S: i64 = 2 * 365 * 24 * 3_600;
    let (mut world, fake, [first, second]) = joined();
    for (ahead_s, refused, shown) in [
        (YEARS_S, "which is in the future here", "behind the server's"),
        (-YEARS_S, "nobody has said since", "ahead of"),
    ] {
        let set = |ahead_s| {
            let mut inner = fake.lock();
            (inner.clock_ahead_s, inner.issued_ahead_s) = (ahead_s, ahead_s);
        };
        set(ahead_s);
        fake.publish(&second);
        world.until(refused, |world| {
            let control = world.status().control.expect("the host has joined");
            control.refused.is_some_and(|told| told.reasons[0].contains(refused))
        });
        let before = fake.lock().events.len();
        assert_eq!(world.ctl(&["restart", "api"]).code, 0);
        world.until("what happens arrives", |_| fake.lock().events.len() > before);
        world.serves("/", "v1");
        let told = world.ctl(&["status"]).stdout;
        assert!(told.contains(refused) && told.contains(shown) && told.contains("control: connected"), "{told}");
        set(0);
        let version = fake.publish(&first);
        world.until("taken again", |world| in_force(world) == (Some(version), Some(version)));
    }
    world.down();
}
