//! wrk and dnsperf: both count what was answered, and say so in words.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One turn of one server.
const TURN: Duration = Duration::from_secs(3);
/// As many as a busy small host has open at once.
const CONNECTIONS: &str = "32";
/// Clients of a resolver; real hosts have one stub.
const CLIENTS: &str = "8";

/// What one turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) count: u64,
    pub(super) seconds: u64,
}

/// Runs `load` once for nothing: the turn's own length is far above `at_least`.
pub(super) fn warm(load: impl Fn(u16) -> Result<Done>, port: u16, at_least: Duration) -> Result<()> {
    let done = load(port)?;
    if done.count == 0 || Duration::from_secs(done.seconds) < at_least {
        bail!("nothing was answered on port {port}");
    }
    Ok(())
}

pub(super) fn requests(port: u16) -> Result<Done> {
    let seconds = TURN.as_secs();
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c", CONNECTIONS, "-d", &format!("{seconds}s")]).arg(format!("http://127.0.0.1:{port}/"));
    let said = output(&mut wrk, "wrk")?;
    let count = requests_in(&said).with_context(|| format!("not every request was answered by 200: {said}"))?;
    Ok(Done { count, seconds })
}

/// `None` when something was not answered well.
fn requests_in(said: &str) -> Option<u64> {
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return None;
    }
    let line = said.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn queries(port: u16, file: &Path) -> Result<Done> {
    let seconds = TURN.as_secs();
    let mut dnsperf = Command::new("dnsperf");
    dnsperf.args(["-s", "127.0.0.1", "-p", &port.to_string(), "-c", CLIENTS, "-T", "1", "-q", "200"]);
    dnsperf.args(["-l", &seconds.to_string(), "-d"]).arg(file);
    let said = output(&mut dnsperf, "dnsperf")?;
    let count = queries_in(&said).with_context(|| format!("not every query was answered by an address: {said}"))?;
    Ok(Done { count, seconds })
}

fn queries_in(said: &str) -> Option<u64> {
    let field = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    if !field("Response codes:")?.starts_with("NOERROR") || !field("Response codes:")?.contains("(100.00%)") {
        return None;
    }
    field("Queries completed:")?.split_whitespace().next()?.parse().ok()
}

fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {what}"))?;
    if !output.status.success() {
        bail!("{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_only_where_all_went_well() {
        let wrk = "  Thread Stats\n  35120 requests in 3.10s, 41.00MB read\nRequests/sec:  11329.10\n";
        assert_eq!(requests_in(wrk), Some(35_120));
        assert_eq!(requests_in(&format!("{wrk}  Non-2xx or 3xx responses: 2\n")), None);
        let dnsperf = "  Queries sent:         100\n  Queries completed:    99 (99.00%)\n  Response codes:       NOERROR 99 (100.00%)\n";
        assert_eq!(queries_in(dnsperf), Some(99));
        assert_eq!(queries_in(&dnsperf.replace("NOERROR 99 (100.00%)", "NXDOMAIN 99 (100.00%)")), None);
    }
}
