//! `cargo xtask bench`: the released programs beside the field's own on this machine, in one interleaved run: CPU time
//! per proxied request beside nginx and Caddy, CPU time per DNS query beside Unbound, and a pass of the reconciler that
//! finds nothing to do. CPU time, since requests per second say more about a machine's neighbours than about a program.

mod load;
mod servers;
mod stack;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::host::Host;
use super::table::{Table, micros, millis};
use super::{IDLE_POLL, POLL, process};
use crate::command::Line;
use crate::console::say;
use servers::Server;

/// Every server takes its turn in every round, so that a noisy neighbour is everybody's.
const ROUNDS: usize = 7;
/// Before a turn is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Workers that a pass with nothing to do has to look at.
const WORKERS: usize = 200;
const PASSES: usize = 9;

pub(crate) fn run(root: &Path) -> Result<()> {
    servers::check_programs()?;
    Line::new("cargo build --release --workspace --bins --locked").run(root)?;
    let own = std::env::current_exe().context("find our own program")?;
    let target_dir = own.parent().and_then(Path::parent).context("our program lies in a target folder")?;
    let mut host = Host::new(&target_dir.join("release"))?;
    let mut table = Table::titled("bench, medians, release build");
    host.upstream()?;
    host.stack(IDLE_POLL, &[host.upstream_service()])?;
    host.start()?;
    let seen = host.whole(1)?;
    let upstream = seen.instances.first().and_then(|instance| instance.port).context("the upstream has no port")?;
    let agentd = |port| Server::ours("agentd", seen.edge, port);

    let nginx = servers::nginx(&host.dir, upstream)?;
    let caddy = servers::caddy(&host.dir, upstream)?;
    let proxies = [agentd(host.port), nginx, caddy];
    say(&format!("bench: {ROUNDS} rounds of 1 KiB requests through {}", names(&proxies)));
    side_by_side(&proxies, "CPU per proxied 1 KiB request", load::requests, &mut table)?;
    drop(proxies);

    let resolvers = [agentd(host.dns_port), servers::unbound(&host.dir)?];
    say(&format!("bench: {ROUNDS} rounds of DNS queries to {}", names(&resolvers)));
    let queries = host.dir.join("queries");
    std::fs::write(&queries, "upstream.svc.internal A\n").context("write the queries")?;
    side_by_side(&resolvers, "CPU per DNS query", |port| load::queries(port, &queries), &mut table)?;
    drop(resolvers);

    say(&format!("bench: {WORKERS} services with nothing to do"));
    nothing_to_do(&host, &mut table)?;
    host.down()?;
    say(&table.to_string());
    Ok(())
}

fn names(servers: &[Server]) -> String {
    servers.iter().map(|server| server.name).collect::<Vec<_>>().join(", ")
}

/// One load at a time; CPU time is the server's own, its children's included.
fn side_by_side(
    servers: &[Server],
    what: &str,
    load: impl Fn(u16) -> Result<load::Done>,
    table: &mut Table,
) -> Result<()> {
    let mut used_ns: Vec<Vec<u64>> = vec![Vec::new(); servers.len()];
    let mut rates: Vec<Vec<u64>> = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        for ((server, used_ns), rates) in servers.iter().zip(&mut used_ns).zip(&mut rates) {
            load::warm(&load, server.port, WARM_UP)?;
            let before = server.ticks()?;
            let done = load(server.port).with_context(|| format!("load {}", server.name))?;
            let ticks = server.ticks()? - before;
            used_ns.push(ticks * process::TICK_NS / done.count.max(1));
            rates.push(done.count / done.seconds.max(1));
        }
    }
    let ours = median(&used_ns[0]);
    for ((server, used_ns), rates) in servers.iter().zip(used_ns).zip(rates) {
        let ratio = median(&used_ns) * 100 / ours.max(1);
        table.row(&format!("{what}: {}", server.name), used_ns, micros);
        table.fact("  beside agentd", &format!("{}.{:02}", ratio / 100, ratio % 100));
        table.row("  per second, as seen here", rates, |rate| rate.to_string());
    }
    Ok(())
}

fn median(samples: &[u64]) -> u64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}

/// Each pass is a version that differs in nothing a service could notice; its time is the manager's own, between
/// `applying` and `applied` in its log.
fn nothing_to_do(host: &Host, table: &mut Table) -> Result<()> {
    let services: Vec<String> = (0..WORKERS).map(|number| host.worker(&format!("w{number}"))).collect();
    host.stack(POLL, &services)?;
    host.whole(WORKERS)?;
    let already = host.passes_us()?.len();
    for pass in 1..=PASSES {
        host.stack(&format!("{}s", 60 + pass), &services)?;
        host.until("the version is applied", || (host.passes_us().ok()?.len() == already + pass).then_some(()))?;
    }
    let passes = host.passes_us()?.split_off(already);
    table.row(&format!("a pass over {WORKERS} services that finds nothing to do"), passes, millis);
    Ok(())
}
