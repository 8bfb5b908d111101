//! What the operator has set for the whole server.

use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of everything the server keeps.
    pub home: PathBuf,
    /// How hosts and people reach it, without a slash at its end.
    pub public_url: String,
    /// `install.sh` and packages for fresh hosts.
    pub packages_dir: PathBuf,
}
