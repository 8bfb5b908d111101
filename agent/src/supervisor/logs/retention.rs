//! How long folders of instances that are gone stay.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Folders of gone instances kept per service: enough to look behind a crash loop over several deploys.
const GONE_KEPT: usize = 10;

/// Removes the oldest folders `<log>/<service>/<instance>` of instances not in `alive`; tells how many. Goes on after a
/// folder that cannot be removed and returns the first such failure.
pub(in super::super) fn sweep(log_dir: &Path, alive: &BTreeSet<String>) -> io::Result<usize> {
    let mut removed = 0;
    let mut failure = None;
    for service in folders(log_dir)? {
        let mut gone = folders(&service)?;
        gone.retain(|dir| dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| !alive.contains(name)));
        gone.sort_by_key(|dir| std::cmp::Reverse(touched(dir)));
        for dir in gone.into_iter().skip(GONE_KEPT) {
            match std::fs::remove_dir_all(&dir) {
                Ok(()) => removed += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    failure.map_or(Ok(removed), Err)
}

fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// When the newest segment was written, or the folder changed.
fn touched(dir: &Path) -> SystemTime {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let times = files.chain([dir.to_owned()]).filter_map(|path| std::fs::metadata(path).ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_ten_and_the_living_stay() {
        let log = tempfile::tempdir().unwrap();
        for number in 0..13u64 {
            let dir = log.path().join("api").join(format!("i{number:02}"));
            std::fs::create_dir_all(&dir).unwrap();
            let file = File::create(dir.join("00000000.log")).unwrap();
            // The future, so that the folder's own time does not count.
            file.set_modified(SystemTime::now() + Duration::from_secs(1_000 + number)).unwrap();
        }
        let alive = BTreeSet::from(["i00".to_owned()]);
        assert_eq!(sweep(log.path(), &alive).unwrap(), 2);
        let mut left: Vec<String> = folders(&log.path().join("api"))
            .unwrap()
            .iter()
            .map(|dir| dir.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        left.sort();
        assert_eq!(left.len(), 11);
        assert_eq!(left[..2], ["i00".to_owned(), "i03".to_owned()]);
    }
}
