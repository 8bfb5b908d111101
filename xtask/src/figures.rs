//! `cargo xtask figures`: what the agent costs and how long it takes, measured on this machine through real processes
//! and the real edge. Nothing here is a test: it prints what is, and fails only where something does not happen at all.

pub(crate) mod bench;
pub(crate) mod control;
mod host;
mod load;
mod process;
mod table;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::Line;
use crate::console::say;
use host::{Host, Seen};
use load::Load;
use table::{Table, kib, millis};

const SERVICES: usize = 10;
/// As a stack has it that does not say: in the idle minute refs are asked for as often as on any host.
const IDLE_POLL: &str = "15s";
const POLL: &str = "1s";
const IDLE: Duration = Duration::from_secs(60);
/// After a start, until caches and connections are as they stay.
const SETTLE: Duration = Duration::from_secs(12);
const ADDED_ROUNDS: usize = 5;
const REDEPLOYS: usize = 20;
/// One service of so many replicas.
const ADOPTED: usize = 50;
const ADOPTION_ROUNDS: usize = 5;

pub(crate) fn run(root: &Path) -> Result<()> {
    Line::new("cargo build --workspace --locked").run(root)?;
    let own = std::env::current_exe().context("find our own program")?;
    let programs_dir = own.parent().context("our program lies in a folder")?;
    let mut host = Host::new(programs_dir)?;
    let mut table = Table::titled("figures, medians, unoptimised build");
    host.commit("still", "still")?;
    host.commit("moving", "v0")?;
    let mut services: Vec<String> =
        (1..SERVICES).map(|number| host.service(&format!("s{number}"), "still", "")).collect();
    services.push(host.service("moving", "moving", ""));
    host.stack(IDLE_POLL, &services)?;
    host.start()?;
    let seen = host.whole(SERVICES)?;
    say(&format!("figures: {SERVICES} services run; idle for {} s", (SETTLE + IDLE).as_secs()));
    thread::park_timeout(SETTLE);
    memory(&seen, &mut table)?;
    idle(&seen, &mut table)?;
    say("figures: kill -9 of every service's program");
    host.stack(POLL, &services)?;
    restarts(&host, &mut table)?;
    say(&format!("figures: {REDEPLOYS} redeploys under load"));
    redeploys(&host, &mut table)?;
    say("figures: services added by an edit");
    added(&host, services, &mut table)?;
    say(&format!("figures: kill -9 of the manager of {ADOPTED} instances"));
    adoption(&mut host, &mut table)?;
    host.down()?;
    say(&table.to_string());
    Ok(())
}

fn memory(seen: &Seen, table: &mut Table) -> Result<()> {
    let shims: Vec<u32> = seen.instances.iter().map(|instance| instance.shim).collect();
    let processes =
        [("manager", vec![seen.manager]), ("edge", vec![seen.edge]), ("keeper", vec![seen.keeper]), ("shim", shims)];
    for (name, pids) in processes {
        let memory: Vec<_> = pids.into_iter().map(process::memory).collect::<Result<_>>()?;
        let rss = memory.iter().map(|memory| memory.rss_kib).collect();
        let pss = memory.iter().map(|memory| memory.pss_kib).collect();
        table.row(&format!("{name}: Rss with {SERVICES} services"), rss, kib);
        table.row(&format!("{name}: Pss with {SERVICES} services"), pss, kib);
    }
    Ok(())
}

/// Hundredths of a second are the kernel's unit everywhere Linux runs on x86-64 and arm64 (USER_HZ).
fn idle(seen: &Seen, table: &mut Table) -> Result<()> {
    let shims: Vec<u32> = seen.instances.iter().map(|instance| instance.shim).collect();
    let groups = [
        ("manager and its gits", vec![seen.manager]),
        ("edge", vec![seen.edge]),
        ("keeper and shims", shims.into_iter().chain([seen.keeper]).collect()),
    ];
    let used = |pids: &[u32]| pids.iter().map(|pid| process::ticks(*pid)).sum::<Result<u64>>();
    let before: Vec<u64> = groups.iter().map(|(_, pids)| used(pids)).collect::<Result<_>>()?;
    thread::park_timeout(IDLE);
    for ((name, pids), before) in groups.iter().zip(before) {
        let ticks = used(pids)? - before;
        let share = |ticks: u64| {
            let hundredths = ticks * 100 / IDLE.as_secs();
            format!("{} ms ({}.{:02} % of a core)", ticks * 10, hundredths / 100, hundredths % 100)
        };
        table.row(&format!("{name}: CPU in an idle minute"), vec![ticks], share);
    }
    Ok(())
}

/// One kill per service: a second crash of the same one soon after would be answered with a pause, by design.
fn restarts(host: &Host, table: &mut Table) -> Result<()> {
    let (mut seen_again, mut ready_again) = (Vec::new(), Vec::new());
    let names = (1..SERVICES).map(|number| format!("/s{number}")).chain(["/moving".to_owned()]);
    for path in names {
        let pid = pid_in(&host.answered(&path, |_| true)?)?;
        let killed = Instant::now();
        host::kill(pid)?;
        host.until("a new program is seen", || {
            let instances = host.seen().ok()?.instances;
            (instances.len() == SERVICES
                && instances.iter().all(|instance| instance.program != 0 && instance.program != pid))
            .then_some(())
        })?;
        seen_again.push(elapsed_us(killed));
        host.answered(&path, |body| pid_in(body).is_ok_and(|now| now != pid))?;
        ready_again.push(elapsed_us(killed));
    }
    table.row("kill -9 of an instance: new process seen", seen_again, millis);
    table.row("kill -9 of an instance: answered again", ready_again, millis);
    Ok(())
}

fn redeploys(host: &Host, table: &mut Table) -> Result<()> {
    let load = Load::start(host.port, "/moving")?;
    let mut times = Vec::new();
    for round in 1..=REDEPLOYS {
        let version = format!("v{round}");
        host.commit("moving", &version)?;
        let committed = Instant::now();
        host.answered("/moving", |body| body.split(' ').next() == Some(&version))?;
        times.push(elapsed_us(committed));
    }
    host.whole(SERVICES)?;
    let counts = load.stop()?;
    table.row("git commit to first answer of it (poll_interval 1 s)", times, millis);
    for count in &counts {
        table.fact(
            &format!("{REDEPLOYS} redeploys under load, {}", count.what),
            &format!("{} failed of {}", count.failed, count.asked),
        );
        if let Some(first) = &count.first_failure {
            table.fact("  first failure", first);
        }
    }
    Ok(())
}

fn added(host: &Host, mut services: Vec<String>, table: &mut Table) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..ADDED_ROUNDS {
        services.push(host.service(&format!("added{round}"), "still", ""));
        host.stack(POLL, &services)?;
        let edited = Instant::now();
        host.answered(&format!("/added{round}"), |_| true)?;
        times.push(elapsed_us(edited));
        host.whole(services.len())?;
    }
    table.row("stack file edited to first answer of the added service", times, millis);
    Ok(())
}

fn adoption(host: &mut Host, table: &mut Table) -> Result<()> {
    host.stack(POLL, &[host.service("many", "still", &format!("replicas = {ADOPTED}"))])?;
    let before = host.whole(ADOPTED)?;
    let mut times = Vec::new();
    for _ in 0..ADOPTION_ROUNDS {
        host.kill_manager()?;
        let started = Instant::now();
        host.start()?;
        let after = host.whole(ADOPTED)?;
        times.push(elapsed_us(started));
        if (&after.instances, after.keeper, after.edge) != (&before.instances, before.keeper, before.edge) {
            bail!("adoption changed pids: {before:?} became {after:?}");
        }
    }
    table.row(&format!("manager killed and started: {ADOPTED} instances ready in status"), times, millis);
    Ok(())
}

/// The service answers "VERSION PID ".
fn pid_in(body: &str) -> Result<u32> {
    let pid = body.split(' ').nth(1).and_then(|word| word.parse().ok());
    pid.with_context(|| format!("no pid in {body:?}"))
}

fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
