//! What runs behind agentd while it is measured.

use std::fs;

use anyhow::{Context, Result};

use super::super::host::Host;
use super::servers::temp_paths;

/// Body of every proxied answer, bytes.
const BODY_BYTES: usize = 1024;
const CONFIG: &str = "nginx.conf.in";

impl Host {
    /// A repository with the least program that answers 1 KiB: what is measured is what stands in front of it.
    pub(super) fn upstream(&self) -> Result<()> {
        let text = format!(
            "worker_processes 1; daemon off; pid DATA/pid; error_log stderr;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; {}\n\
             server {{ listen 127.0.0.1:PORT; keepalive_requests 1000000; location / {{ return 200 \"{}\"; }} }} }}\n",
            temp_paths("DATA".as_ref()),
            "x".repeat(BODY_BYTES)
        );
        self.commit_file("upstream", CONFIG, &text, "answer 1 KiB")
    }

    pub(super) fn upstream_service(&self) -> String {
        let run = format!(
            "sed -e s,PORT,$PORT, -e s,DATA,$DATA_DIR,g {CONFIG} > $DATA_DIR/nginx.conf && \
             exec nginx -p $DATA_DIR -e stderr -c $DATA_DIR/nginx.conf"
        );
        format!("[[service]]\nname = \"upstream\"\n{}run = \"{run}\"\npath = \"/\"\n", self.source("upstream"))
    }

    pub(super) fn worker(&self, name: &str) -> String {
        let source = self.source("upstream");
        format!("[[service]]\nname = \"{name}\"\nkind = \"worker\"\n{source}run = \"exec sleep 1000000\"\n")
    }

    fn source(&self, repo: &str) -> String {
        format!("repo = \"file://{}\"\nref = \"main\"\n", self.dir.join(repo).display())
    }

    /// How long each version took from `applying` to `applied` in the manager's log, µs.
    pub(super) fn passes_us(&self) -> Result<Vec<u64>> {
        let log = self.home().join("log/agentd.log");
        let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
        Ok(passes_in(&text))
    }
}

fn passes_in(log: &str) -> Vec<u64> {
    let mut passes = Vec::new();
    let mut begun = None;
    for line in log.lines() {
        if line.contains(" applying ") {
            begun = time_us(line);
        } else if line.contains(" applied ")
            && let (Some(begun), Some(ended)) = (begun.take(), time_us(line))
        {
            // Past midnight the clock begins anew; such a pass is not worth a calendar.
            passes.extend(u64::checked_sub(ended, begun));
        }
    }
    passes
}

/// Time of day of a line that begins with `2026-01-31T23:59:59.123456Z`, µs.
fn time_us(line: &str) -> Option<u64> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let (whole, fraction) = time.split_once('.')?;
    let mut seconds = 0;
    for part in whole.split(':') {
        seconds = seconds * 60 + part.parse::<u64>().ok()?;
    }
    Some(seconds * 1_000_000 + fraction.parse::<u64>().ok().filter(|_| fraction.len() == 6)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_lasts_from_applying_to_applied() {
        let log = "2026-01-31T10:00:00.000100Z  INFO agentd: applying version=1 services=2\n\
                   2026-01-31T10:00:00.500000Z  INFO agentd: something else\n\
                   2026-01-31T10:00:01.000300Z  INFO agentd: applied version=1\n\
                   2026-01-31T10:00:02.000000Z  INFO agentd: applying version=2 services=2\n";
        assert_eq!(passes_in(log), [1_000_200]);
    }
}
