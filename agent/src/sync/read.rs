//! Reading the stack file, whole or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use agentd_protocol::stack::{DOCUMENT_BYTES_MAX, Stack};

use super::Judge;

/// The reader of the format: a stack, or each problem as one line that names the file and its line.
pub type ReadStack = fn(&str, &Path) -> Result<Stack, Vec<String>>;

#[derive(Debug, thiserror::Error)]
pub(super) enum FileProblem {
    #[error("{path}: there is no such file; the last version stays in force")]
    Missing { path: String },
    #[error("{path}: cannot be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{path}: is over {} MiB, the most a stack file may have", DOCUMENT_BYTES_MAX / (1024 * 1024))]
    TooLarge { path: String },
    #[error("{path}: is not UTF-8 text")]
    NotText { path: String },
    #[error("{}", lines.join("\n"))]
    Invalid { lines: Vec<String> },
}

/// Blocks.
pub(super) fn read(file: &Path, parse: ReadStack, judge: &Judge) -> Result<Stack, FileProblem> {
    let path = || file.display().to_string();
    let bytes = bytes(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileProblem::Missing { path: path() },
        _ => FileProblem::Unreadable { path: path(), source },
    })?;
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(FileProblem::TooLarge { path: path() });
    }
    let text = String::from_utf8(bytes).map_err(|_| FileProblem::NotText { path: path() })?;
    let stack = parse(&text, file).map_err(|lines| FileProblem::Invalid { lines })?;
    judge(&stack).map_err(|breaches| FileProblem::Invalid {
        lines: breaches.iter().map(|breach| format!("{}: {breach}", path())).collect(),
    })?;
    Ok(stack)
}

/// At most one byte more than allowed: enough to know that it is too much.
fn bytes(file: &Path) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(DOCUMENT_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::stack;

    fn any(_: &str, _: &Path) -> Result<Stack, Vec<String>> {
        Ok(stack(vec![]))
    }

    fn allows() -> Judge {
        std::sync::Arc::new(|_| Ok(()))
    }

    #[test]
    fn what_the_owner_forbids_is_no_document_either() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stack.toml");
        std::fs::write(&file, "").unwrap();
        let forbids: Judge = std::sync::Arc::new(|_| Err(vec!["service x: too much".to_owned()]));
        let told = read(&file, any, &forbids).unwrap_err().to_string();
        assert!(told.starts_with(&file.display().to_string()) && told.ends_with("service x: too much"), "{told}");
    }

    #[test]
    fn what_is_no_document_is_named_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stack.toml");
        assert!(matches!(read(&file, any, &allows()), Err(FileProblem::Missing { .. })));
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(&file, any, &allows()), Err(FileProblem::NotText { .. })));
        std::fs::write(&file, vec![b'#'; DOCUMENT_BYTES_MAX]).unwrap();
        assert!(read(&file, any, &allows()).is_ok());
        std::fs::write(&file, vec![b'#'; DOCUMENT_BYTES_MAX + 1]).unwrap();
        assert!(matches!(read(&file, any, &allows()), Err(FileProblem::TooLarge { .. })));
        assert!(matches!(read(dir.path(), any, &allows()), Err(FileProblem::Unreadable { .. })));
    }
}
