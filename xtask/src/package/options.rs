//! The command line of `package`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub(super) const USAGE: &str = "\
usage: cargo xtask package [--profile dev|release] [--version-suffix TEXT] [--out DIR] [--binaries DIR]
  builds Debian packages of agentd (with agentctl) and of agentd-control (controld), and SHA256SUMS, for this machine's release and architecture
  --profile P           how they are compiled (default: release)
  --version-suffix TEXT is put after the version, for example ~rc1 or +1
  --out DIR             folder for the package (default: target/package)
  --binaries DIR        takes agentd and agentctl from there as they are, compiles and strips nothing, packages them alone";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) binaries: Binaries,
    pub(super) version_suffix: String,
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Binaries {
    ToBuild(Profile),
    Built(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    Dev,
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Small,
    Quick,
}

impl Profile {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// Below the target folder.
    pub(super) fn dir(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

impl Options {
    /// Only what is published is worth the time.
    pub(super) fn compression(&self) -> Compression {
        match self.binaries {
            Binaries::ToBuild(Profile::Release) => Compression::Small,
            Binaries::ToBuild(Profile::Dev) | Binaries::Built(_) => Compression::Quick,
        }
    }
}

/// `None`: the usage is asked for.
pub(super) fn parse(words: &[String]) -> Result<Option<Options>> {
    let mut options =
        Options { binaries: Binaries::ToBuild(Profile::Release), version_suffix: String::new(), out: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--profile" => {
                options.binaries = Binaries::ToBuild(match value()?.as_str() {
                    "dev" => Profile::Dev,
                    "release" => Profile::Release,
                    other => bail!("no such profile: {other}\n{USAGE}"),
                });
            }
            "--version-suffix" => {
                let suffix = value()?;
                let fits = |char: char| char.is_ascii_alphanumeric() || "+~.".contains(char);
                if !suffix.chars().all(fits) {
                    bail!("--version-suffix takes letters, digits, `+`, `~` and `.`, not {suffix}");
                }
                options.version_suffix.clone_from(suffix);
            }
            "--out" => options.out = Some(std::path::absolute(value()?).context("find the folder")?),
            "--binaries" => {
                options.binaries = Binaries::Built(std::path::absolute(value()?).context("find the folder")?);
            }
            "--help" | "-h" => return Ok(None),
            other => bail!("no such option: {other}\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let parse = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("--profile dev --version-suffix +2 --out /x").unwrap().unwrap();
        assert_eq!(options.binaries, Binaries::ToBuild(Profile::Dev));
        assert_eq!((options.version_suffix.as_str(), options.out), ("+2", Some("/x".into())));
        assert_eq!(parse("").unwrap().unwrap().compression(), Compression::Small);
        assert_eq!(parse("--help").unwrap(), None);
        for wrong in ["--profile fast", "--profile", "--version-suffix -1", "--sign"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
