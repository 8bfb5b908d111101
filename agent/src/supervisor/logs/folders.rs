//! The log folders of a service: one per instance that is, or was and is still kept.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use agentd_protocol::ids::InstanceId;

use super::super::launch::Label;
use super::LogFile;

/// In a log folder: what its instance was launched as. The folder outlives the instance.
pub(in super::super) const LABEL_FILE: &str = "label";

#[derive(Debug, Clone)]
pub struct LogFolder {
    pub id: InstanceId,
    /// `None` in a folder from before labels were kept.
    pub label: Option<Label>,
    pub made: SystemTime,
    pub file: LogFile,
}

/// Oldest first; none when the service has never had an instance.
pub(in super::super) fn folders(service_dir: &Path) -> io::Result<Vec<LogFolder>> {
    let entries = match std::fs::read_dir(service_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<LogFolder> = entries.filter_map(|entry| folder(&entry.ok()?)).collect();
    found.sort_by_key(|folder| folder.made);
    Ok(found)
}

/// `None` for what is no instance's, or is being swept away.
fn folder(entry: &std::fs::DirEntry) -> Option<LogFolder> {
    let id = InstanceId::new(entry.file_name().to_str()?).ok()?;
    let dir = entry.path();
    let label_file = dir.join(LABEL_FILE);
    let label = std::fs::read(&label_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let facts = std::fs::metadata(&label_file).or_else(|_| entry.metadata()).ok()?;
    let file = LogFile::segments(id.to_string(), dir);
    Some(LogFolder { id, label, made: facts.modified().ok()?, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_say_what_they_were_made_for() {
        let root = tempfile::tempdir().unwrap();
        assert!(folders(&root.path().join("none")).unwrap().is_empty());
        for (id, label) in [("aaaaaaaaaaaa", Some(r#"{"kind":"build","key":"3"}"#)), ("bbbbbbbbbbbb", None)] {
            let dir = root.path().join(id);
            std::fs::create_dir(&dir).unwrap();
            if let Some(label) = label {
                std::fs::write(dir.join(LABEL_FILE), label).unwrap();
            }
        }
        std::fs::create_dir(root.path().join("stray")).unwrap();
        let mut found = folders(root.path()).unwrap();
        found.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
        let labels: Vec<Option<Label>> = found.into_iter().map(|folder| folder.label).collect();
        assert_eq!(labels, [Some(Label::Build { key: "3".into() }), None]);
    }
}
