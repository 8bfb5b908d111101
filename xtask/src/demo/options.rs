//! The command line of the demo.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub(super) const USAGE: &str = "\
usage: cargo xtask demo [--control] [--dir DIR] [--port N] [--public] [--clean]
  runs the three applications of examples/ on this machine until Ctrl-C, which takes everything down again
  --control   the same on two hosts, both on this machine, which a control server hands the stack to
  --dir DIR   folder for repositories, builds and data (default: /var/tmp/agentd-demo-<uid>, or with --control
              /var/tmp/agentd-demo-control-<uid>); kept for a quick next start
  --port N    port of the proxy (default: 8080); names use the two after it
  --public    listen on every address of this machine, not on loopback alone
  --clean     take a running demo down, remove the folder, and end";

/// Far from the ports that instances get.
const PORT: u16 = 8080;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) dir: Option<PathBuf>,
    pub(super) port: u16,
    pub(super) reach: Reach,
    pub(super) act: Act,
    pub(super) hosts: Hosts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Loopback,
    Public,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    One,
    /// And a control server.
    Two,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Run,
    Clean,
    Help,
}

pub(super) fn parse(words: &[String]) -> Result<Options> {
    let mut options = Options { dir: None, port: PORT, reach: Reach::Loopback, act: Act::Run, hosts: Hosts::One };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--dir" => options.dir = Some(std::path::absolute(value()?).context("find the folder")?),
            "--port" => {
                let port = value()?.parse().ok().filter(|port| (1024..u16::MAX - 1).contains(port));
                options.port = port.context("--port needs a number from 1024 to 65533")?;
            }
            "--control" => options.hosts = Hosts::Two,
            "--public" => options.reach = Reach::Public,
            "--clean" => options.act = Act::Clean,
            "--help" | "-h" => options.act = Act::Help,
            other => bail!("no such option: {other}\n{USAGE}"),
        }
    }
    if options.hosts == Hosts::Two && options.reach == Reach::Public {
        bail!("--control and --public: the two hosts and their server are for this machine alone");
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_typos_refused() {
        let read = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let plain = read("").unwrap();
        assert_eq!((plain.port, plain.reach, plain.act), (8080, Reach::Loopback, Act::Run));
        let all = read("--dir /d --port 9000 --public").unwrap();
        assert_eq!((all.dir.unwrap(), all.port, all.reach), (PathBuf::from("/d"), 9000, Reach::Public));
        assert_eq!(read("--clean").unwrap().act, Act::Clean);
        for bad in ["--prot 1", "--port", "--port x", "--port 80", "x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
