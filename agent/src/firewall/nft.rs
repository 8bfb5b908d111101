//! The nft program: the one place that starts it. Plain and synchronous: boot runs this too.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use super::command;
use super::inspect::{self, Found};
use super::ruleset::layout;
use super::{Amendment, Ruleset};

/// Never looked up in PATH: root runs it.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
/// One transaction takes milliseconds; a host that swaps may take its time. A table with the most survivors lists in 2 MB.
const LIMITS: command::Limits = command::Limits { time: Duration::from_secs(10), bytes: 32 << 20 };
/// Of what nft says against a ruleset; it repeats itself once for each rule.
const SAID_BYTES_MAX: usize = 2000;

/// What nft says where the kernel has no nfnetlink (EPROTONOSUPPORT), or no nf_tables behind it (EINVAL, EOPNOTSUPP).
const NO_NF_TABLES: [&str; 3] = [
    "Unable to initialize Netlink socket: Protocol not supported",
    "cache initialization failed: Invalid argument",
    "cache initialization failed: Operation not supported",
];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nft is not installed; install the package nftables, or use the mode `open`")]
    Missing,
    #[error("{path} may be changed by others than root, so root does not run it; look at its owner and mode")]
    Untrusted { path: PathBuf },
    #[error("this nft was built without JSON support; install the distribution's full nftables package")]
    NoJson,
    #[error(
        "the kernel lets us neither read nor set its rules; run as root, or in a container with the capability NET_ADMIN"
    )]
    NotPermitted,
    #[error("this kernel has no nf_tables, or none that this nft can speak to; see `nft list ruleset`")]
    NoNfTables,
    #[error("nft could not be asked")]
    Run(#[from] command::Error),
    #[error("nft refused ({status}): {said}")]
    Refused { status: ExitStatus, said: String },
    #[error("nft's list of our table is no JSON; see `nft -j list table inet agentd`")]
    Unreadable(#[source] serde_json::Error),
    #[error("nft's list of all rules is no JSON; see `nft -j list ruleset`")]
    UnreadableAll(#[source] serde_json::Error),
    #[error(
        "the kernel has other rules than were just applied: somebody changes them; see `nft list table inet agentd`"
    )]
    NotAsWritten,
}

impl Error {
    /// Nothing of nftables can be used here, so no table of ours can be there: another attempt ends the same.
    pub fn is_unusable(&self) -> bool {
        match self {
            Self::Missing | Self::NoJson | Self::NotPermitted | Self::NoNfTables => true,
            Self::Untrusted { .. }
            | Self::Run(_)
            | Self::Refused { .. }
            | Self::Unreadable(_)
            | Self::UnreadableAll(_)
            | Self::NotAsWritten => false,
        }
    }
}

/// An nft that can be run, found once.
#[derive(Debug, Clone)]
pub struct Nft {
    path: PathBuf,
}

impl Nft {
    pub fn find() -> Result<Self, Error> {
        Self::among(PLACES.iter().map(Path::new))
    }

    fn among<'a>(mut places: impl Iterator<Item = &'a Path>) -> Result<Self, Error> {
        let path = places.find(|path| path.is_file()).ok_or(Error::Missing)?;
        let owned = path.metadata().is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0);
        if owned { Ok(Self { path: path.to_owned() }) } else { Err(Error::Untrusted { path: path.to_owned() }) }
    }

    /// Whether the kernel would take it; changes nothing.
    pub fn check(&self, ruleset: &Ruleset) -> Result<(), Error> {
        self.run(&["--check", "-j", "-f", "-"], &self.transaction(ruleset)?).map(drop)
    }

    /// All of it or nothing. What the kernel made of it is read back and sealed, so that `inspect` sees later changes.
    pub fn apply(&self, ruleset: &Ruleset) -> Result<(), Error> {
        self.write(&self.transaction(ruleset)?)?;
        let written: Value = serde_json::from_str(&ruleset.text()).expect("we wrote it");
        let table = self.table()?;
        let found = table.as_ref().map(inspect::contents).unwrap_or_default();
        if found != inspect::written(&written) {
            return Err(Error::NotAsWritten);
        }
        let Some(table) = table else { return Ok(()) };
        match self.amend(&Amendment { nft: layout::seal(inspect::fingerprint(&table).into()) }) {
            // It was there a moment ago.
            Err(Error::Refused { .. }) if self.table()?.is_none() => Err(Error::NotAsWritten),
            sealed => sealed,
        }
    }

    /// What somebody else put into our table, or made another way, goes with nothing less than the table itself.
    fn transaction(&self, ruleset: &Ruleset) -> Result<String, Error> {
        Ok(match inspect::read(self.table()?.as_ref()) {
            Found::Altered { .. } => ruleset.anew().text(),
            Found::Absent | Found::Confirmed { .. } | Found::Trial { .. } => ruleset.text(),
        })
    }

    /// All of it or nothing; `Refused` where our table is not there.
    pub fn amend(&self, amendment: &Amendment) -> Result<(), Error> {
        self.write(&amendment.text())
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        self.run(&["-j", "-f", "-"], text).map(drop)
    }

    /// Our table as the kernel has it; `None` where there is none.
    pub fn table(&self) -> Result<Option<Value>, Error> {
        match self.run(&["-j", "list", "table", "inet", layout::TABLE], "") {
            Ok(listed) => serde_json::from_str(&listed).map(Some).map_err(Error::Unreadable),
            Err(Error::Refused { said, .. }) if said.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tables of everybody; only to look for what others do.
    pub fn everything(&self) -> Result<Value, Error> {
        let listed = self.run(&["-j", "list", "ruleset"], "")?;
        serde_json::from_str(&listed).map_err(Error::UnreadableAll)
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let output = command::feed(&self.path, arguments, input, LIMITS)?;
        if output.status.success() { Ok(output.stdout) } else { Err(complaint(output.status, &output.stderr)) }
    }
}

fn complaint(status: ExitStatus, said: &str) -> Error {
    let said = said.trim();
    if said.contains("JSON support not compiled") {
        Error::NoJson
    } else if said.contains("Operation not permitted") {
        Error::NotPermitted
    } else if NO_NF_TABLES.iter().any(|words| said.contains(words)) {
        Error::NoNfTables
    } else {
        let end = said.char_indices().map(|(at, _)| at).find(|at| *at >= SAID_BYTES_MAX).unwrap_or(said.len());
        Error::Refused { status, said: said[..end].replace('\n', "; ") }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_nft_says_becomes_a_cure() {
        let error = |said: &str| complaint(ExitStatus::from_raw(256), said);
        assert!(matches!(error("Error: JSON support not compiled-in\n"), Error::NoJson));
        assert!(matches!(
            error("netlink: Error: cache initialization failed: Operation not permitted"),
            Error::NotPermitted
        ));
        for none in [
            "netlink: Error: cache initialization failed: Invalid argument",
            "x: Unable to initialize Netlink \
                      socket: Protocol not supported",
        ] {
            assert!(matches!(error(none), Error::NoNfTables));
        }
        for usable in
            [error("Error: No such file or directory; did you mean"), error("Could not process rule: Invalid argument")]
        {
            assert!(matches!(usable, Error::Refused { .. }) && !usable.is_unusable());
        }
        let long = error(&format!("internal:0:0-0: Error: {}\nmore", "x".repeat(5000)));
        assert!(long.to_string().starts_with("nft refused (exit status: 1): internal:0:0-0: Error: xxx"), "{long}");
        assert!(long.to_string().len() < 2100);
    }

    #[test]
    fn a_program_that_others_may_change_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nft");
        assert!(matches!(Nft::among([path.as_path()].into_iter()), Err(Error::Missing)));
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, open).unwrap();
        assert!(matches!(Nft::among([path.as_path()].into_iter()), Err(Error::Untrusted { .. })));
    }

    /// More than any pipe holds, in both directions.
    #[test]
    fn neither_side_blocks_the_other() {
        let cat = Nft { path: "/bin/cat".into() };
        let much = "x".repeat(3 << 20);
        assert_eq!(cat.run(&["-"], &much).unwrap(), much);
        let sh = Nft { path: "/bin/sh".into() };
        let failed = sh.run(&["-c", "echo \"$LC_ALL $HOME\" >&2; cat >/dev/null; exit 3"], &much).unwrap_err();
        assert_eq!(failed.to_string(), "nft refused (exit status: 3): C");
    }
}
