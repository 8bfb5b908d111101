//! A simulated fleet against a real controld: what a published version costs on its way to every host, and what held
//! connections, reports and events cost the server. `cargo xtask figures --control` starts it.
//!
//! All hosts live on one thread of this process, and sign, fetch and verify as the agent does; their own work is in the
//! times. Nothing here is a test: it prints what is, and fails only where something does not happen at all.

mod fleet;
mod host;
mod load;
mod process;
mod server;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use fleet::Fleet;
use host::Host;
use server::Server;
use table::{Table, bytes, kib, micros_of, millis};

/// Each is a start of the server on the home that the others left.
const STARTS: usize = 5;
/// Until buffers and connections are as they stay.
const SETTLE: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(60);
/// Hosts that report while the others are held, or alone.
const REPORTERS: usize = 50;
/// Reports of all reporters together, a second, while the fleet is held: 1,000 hosts that report every 10 s.
const PACED_PER_S: u64 = 100;
const PACED: Duration = Duration::from_secs(20);
const BURST: Duration = Duration::from_secs(10);
const EVENTS_PER_REPORT: u64 = 200;
/// What a busy host tells of in a day: with ten services some five deploys of one service each, and a crash loop.
const EVENTS_PER_HOST_DAY: u64 = 200;

#[derive(Debug, Parser)]
#[command(about = "Measures controld with a simulated fleet")]
struct Options {
    /// Folder of the built programs; `controld` is taken from it
    #[arg(long, value_name = "DIR")]
    programs_dir: PathBuf,
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// Publishes that are measured
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

fn main() -> ExitCode {
    match whole(&Options::parse()) {
        Ok(table) => {
            say(&table.to_string());
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("control-fleet: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // Without a reader there is nobody to tell.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn whole(options: &Options) -> Result<Table> {
    process::allow_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<Table> {
    let mut table = Table::titled("controld with a simulated fleet; hosts and server share this machine");
    let mut server = Server::new(&options.programs_dir)?;
    table.fact("binary", &bytes(server.binary_bytes()?));
    starts(&mut server, &mut table).await?;
    let stack = server.new_stack().await?;
    server.publish(&stack, 0).await?;

    say(&format!("fleet: {} hosts enrol", options.hosts));
    let started = Instant::now();
    let mut hosts = Vec::new();
    let mut enrolled_us = Vec::new();
    for number in 0..options.hosts + REPORTERS {
        let join = server.token(&stack).await?;
        let asked = Instant::now();
        hosts.push(Host::enroll(&server.calls, &join, number).await?);
        enrolled_us.push(elapsed_us(asked));
    }
    table.quantiles("enrolment, one after another", enrolled_us, millis);
    table.fact("hosts enrolled in (tokens included)", &format!("{:.1} s", started.elapsed().as_secs_f64()));
    let mut reporters = hosts.split_off(options.hosts);

    held(options, &mut server, &stack, hosts, &mut reporters, &mut table).await?;
    loads(&mut server, &mut reporters, &mut table).await?;
    server.stop()?;
    Ok(table)
}

async fn starts(server: &mut Server, table: &mut Table) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        server.start().await?;
        times.push(elapsed_us(started));
        server.stop()?;
    }
    table.row("start to first answer", times, millis);
    server.start().await?;
    tokio::time::sleep(SETTLE).await;
    let memory = server.memory()?;
    table.fact("idle memory, no hosts", &format!("Rss {}, Pss {}", kib(memory.rss_kib), kib(memory.pss_kib)));
    Ok(())
}

/// The whole fleet is held: versions are published, then nothing happens, then some hosts report.
async fn held(
    options: &Options,
    server: &mut Server,
    stack: &str,
    hosts: Vec<Host>,
    reporters: &mut [Host],
    table: &mut Table,
) -> Result<()> {
    let fleet = Fleet::new(hosts, &server.calls);
    let count = options.hosts;
    let script = async {
        fleet.all_hold(1).await.context("the first version")?;
        tokio::time::sleep(SETTLE).await;
        say(&format!("fleet: {} versions are published to {count} held hosts", options.rounds));
        publishes(options.rounds, server, stack, &fleet, table).await?;
        say(&format!("fleet: {count} hosts are held; idle for {} s", (SETTLE + IDLE).as_secs()));
        tokio::time::sleep(SETTLE).await;
        let (used, reports) = (Used::before(server)?, fleet.reports());
        tokio::time::sleep(IDLE).await;
        let (used, reports) = (used.since(server)?, fleet.reports() - reports);
        let memory = server.memory()?;
        let shown = format!("Rss {}, Pss {}", kib(memory.rss_kib), kib(memory.pss_kib));
        table.fact(&format!("{count} hosts held: memory"), &shown);
        table.fact(
            &format!("{count} hosts held: CPU in an idle minute"),
            &format!("{}; {reports} reports were due", used.shown()),
        );
        say(&format!("fleet: {PACED_PER_S} reports a second beside {count} held hosts"));
        let paced = load::paced(&server.calls, reporters, PACED_PER_S, PACED).await?;
        table.quantiles(&format!("report at {PACED_PER_S}/s beside {count} held hosts"), paced.latencies_us, millis);
        if paced.failed > 0 {
            table.fact("  failed", &paced.failed.to_string());
        }
        Ok::<_, anyhow::Error>(())
    };
    fleet.during(script).await?;
    table.fact("reports of held hosts that failed and were repeated", &fleet.failures().to_string());
    Ok(())
}

async fn publishes(rounds: usize, server: &Server, stack: &str, fleet: &Fleet, table: &mut Table) -> Result<()> {
    let (mut published, mut woken, mut verified) = (Vec::new(), Vec::new(), Vec::new());
    let (mut server_ms, mut own_ms) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let used = Used::before(server)?;
        let asked = Instant::now();
        let version = server.publish(stack, round).await?;
        published.push(elapsed_us(asked));
        fleet.all_hold(version).await?;
        let used = used.since(server)?;
        server_ms.push(used.server_ms);
        own_ms.push(used.fleet_ms);
        let times = fleet.times(version);
        woken.push(times.iter().map(|times| micros_of(times.woken - asked)).collect::<Vec<u64>>());
        verified.push(times.iter().map(|times| micros_of(times.verified - asked)).collect::<Vec<u64>>());
        // All are held again before the next.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    table.row("publish: answered", published, millis);
    table.rounds("publish to held report answered", woken, millis);
    table.rounds("publish to version verified (head, state, env fetched)", verified, millis);
    table.row("publish: CPU of the server, per round", server_ms, |ms| format!("{ms} ms"));
    table.row("publish: CPU of the fleet, per round", own_ms, |ms| format!("{ms} ms"));
    Ok(())
}

/// No host is held any more: as fast as it goes, and what stays on disk of it.
async fn loads(server: &mut Server, reporters: &mut [Host], table: &mut Table) -> Result<()> {
    say("fleet: reports as fast as they are answered");
    let before = server.disk_bytes_at_rest().await?;
    let used = Used::before(server)?;
    let burst = load::burst(&server.calls, reporters, 0, BURST).await?;
    let used = used.since(server)?;
    let reports = burst.latencies_us.len();
    let name = format!("reports with snapshot, {REPORTERS} hosts, as fast as answered");
    table.fact(&name, &burst.rate("reports"));
    table.fact("  CPU", &used.shown());
    table.quantiles("  each", burst.latencies_us, millis);
    let after = server.disk_bytes_at_rest().await?;
    let reports = u64::try_from(reports)?.max(1);
    let growth = after.saturating_sub(before);
    table.fact("  disk growth", &format!("{} for {reports} reports", bytes(growth)));
    say("fleet: events as fast as they are taken");
    let before = after;
    let used = Used::before(server)?;
    let burst = load::burst(&server.calls, reporters, EVENTS_PER_REPORT, BURST).await?;
    let used = used.since(server)?;
    let events = u64::try_from(burst.latencies_us.len())? * EVENTS_PER_REPORT;
    table.fact(
        &format!("events, {EVENTS_PER_REPORT} in a report"),
        &format!("{:.0} events/s", host::as_f64(events) / burst.took.as_secs_f64()),
    );
    table.fact("  CPU", &used.shown());
    table.quantiles("  each report", burst.latencies_us, millis);
    let after = server.disk_bytes_at_rest().await?;
    let per_event = after.saturating_sub(before) / events.max(1);
    table.fact("  disk growth", &format!("{per_event} bytes an event (after {events} events)"));
    let day = per_event * EVENTS_PER_HOST_DAY * 1_000;
    table.fact(
        "database growth per 1,000 hosts and day",
        &format!(
            "{} = 1,000 x {EVENTS_PER_HOST_DAY} events a day x {per_event} bytes; reports replace each other",
            bytes(day)
        ),
    );
    Ok(())
}

/// CPU time, which says what was the narrow part.
#[derive(Debug, Clone, Copy)]
struct Used {
    server_ms: u64,
    fleet_ms: u64,
}

impl Used {
    fn before(server: &Server) -> Result<Self> {
        // A tick is 10 ms.
        Ok(Self { server_ms: server.ticks()? * 10, fleet_ms: process::ticks(std::process::id())? * 10 })
    }

    fn since(self, server: &Server) -> Result<Self> {
        let now = Self::before(server)?;
        Ok(Self { server_ms: now.server_ms - self.server_ms, fleet_ms: now.fleet_ms - self.fleet_ms })
    }

    fn shown(self) -> String {
        format!("{} ms of the server, {} ms of the fleet", self.server_ms, self.fleet_ms)
    }
}

fn elapsed_us(since: Instant) -> u64 {
    micros_of(since.elapsed())
}
