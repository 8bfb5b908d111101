//! What happened between two commits, for people who look for the one that broke something.

use std::ffi::OsString;

use agentd_git::{Call, Remote, SHORT_OUTPUT_BYTES_MAX, words};
use agentd_protocol::ids::Commit;

use super::error::Error;
use super::mirror::{LOCAL_DEADLINE, Source};

/// Letters of a subject that are shown.
const SUBJECT_LETTERS_MAX: usize = 100;

impl Source {
    /// `1234567 subject` of the commits that `to` has and `from` has not, newest first, as far as the mirror reaches and
    /// `count_max` allows. None when `to` is the older one.
    pub async fn subjects(
        &self,
        repo: &str,
        from: &Commit,
        to: &Commit,
        count_max: usize,
    ) -> Result<Vec<String>, Error> {
        let remote = Remote::parse(repo)?;
        let mut args = words(["log", "--no-decorate", "--no-color", "--no-show-signature", "--format=%H %s"]);
        args.push(OsString::from(format!("--max-count={count_max}")));
        args.push(OsString::from(format!("{from}..{to}")));
        args.push(OsString::from("--"));
        let call = Call {
            operation: "history",
            remote: &remote,
            args,
            env: vec![self.inner.git.in_mirror(&remote)],
            lock: None,
            stdout_bytes_max: SHORT_OUTPUT_BYTES_MAX,
            deadline: LOCAL_DEADLINE,
        };
        let listing = self.inner.git.run_checked(call).await?;
        Ok(String::from_utf8_lossy(&listing).lines().filter_map(shown).collect())
    }
}

/// Subjects are anybody's text: nothing in them may steer a terminal.
fn shown(line: &str) -> Option<String> {
    let (commit, subject) = line.split_once(' ')?;
    let subject: String = subject.chars().filter(|letter| !letter.is_control()).take(SUBJECT_LETTERS_MAX).collect();
    Some(format!("{} {subject}", commit.get(..7)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_cut_and_tamed() {
        let line = format!("{} a\u{1b}[31mb{}", "0123456789".repeat(4), "x".repeat(200));
        let told = shown(&line).unwrap();
        assert!(told.starts_with("0123456 a[31mbx"), "{told}");
        assert_eq!(told.chars().count(), 8 + SUBJECT_LETTERS_MAX);
        assert_eq!(shown("short"), None);
    }
}
