//! `agentd-shim keeper <run dir> [--detach] [--shim <path>]`

use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) run_dir: PathBuf,
    /// What to start instead of our own binary: tests of the keeper alone.
    pub(super) shim: Option<PathBuf>,
    pub(super) parentage: Parentage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parentage {
    /// The starter waits for us: a service manager, a container, a test.
    Child,
    /// The first process ends at once and init is our parent, so that the manager never is.
    Detached,
}

/// `None`: usage.
pub(super) fn parse(args: &[OsString]) -> Option<Args> {
    let (run_dir, mut rest) = args.split_first()?;
    let mut parsed = Args { run_dir: PathBuf::from(run_dir), shim: None, parentage: Parentage::Child };
    loop {
        rest = match rest {
            [] => return Some(parsed),
            [flag, tail @ ..] if flag == "--detach" => {
                parsed.parentage = Parentage::Detached;
                tail
            }
            [flag, path, tail @ ..] if flag == "--shim" => {
                parsed.shim = Some(PathBuf::from(path));
                tail
            }
            [_, ..] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_known_or_the_line_is_wrong() {
        let args = |line: &[&str]| line.iter().map(OsString::from).collect::<Vec<_>>();
        let parsed = parse(&args(&["/run/x", "--shim", "/bin/y", "--detach"])).unwrap();
        assert_eq!(parsed.shim, Some("/bin/y".into()));
        assert_eq!(parsed.parentage, Parentage::Detached);
        assert_eq!(parse(&args(&["/run/x"])).unwrap().parentage, Parentage::Child);
        for wrong in [&[][..], &["/run/x", "--shim"], &["/run/x", "--other"]] {
            assert_eq!(parse(&args(wrong)), None);
        }
    }
}
