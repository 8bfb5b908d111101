//! Names of services for every process of the machine: a block in its own /etc/hosts, which every C library reads first.
//! An instance has its own file besides ([`super::HostsFile`]), where a service also has its plain name.

mod block;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use agentd_protocol::ids::ServiceName;
use agentd_sys::causes::chain;
use agentd_sys::replace::{Replaced, replace, sweep};

/// One that is longer is nobody's hosts file.
const BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug)]
pub struct MachineHosts {
    path: PathBuf,
    suffix: String,
    /// Why the names are not there.
    trouble: Mutex<Option<String>>,
}

impl MachineHosts {
    pub fn new(path: &Path, suffix: &str) -> Self {
        Self { path: path.to_owned(), suffix: suffix.to_owned(), trouble: Mutex::default() }
    }

    /// Touches the file only when the block is not as it should be.
    pub(super) fn set(&self, services: &[ServiceName]) -> Replaced {
        let written = replace(&self.path, BYTES_MAX, |found| block::with(found, services, &self.suffix));
        let trouble = match &written {
            Ok(Replaced::Same) => None,
            Ok(Replaced::Renamed | Replaced::InPlace) => {
                tracing::info!(path = %self.path.display(), services = services.len(), "names of services written");
                None
            }
            Err(error) => Some(format!(
                "other programs of this machine do not find names under {} in {}: {}",
                self.suffix,
                self.path.display(),
                chain(error)
            )),
        };
        let mut told = self.trouble.lock().expect("no holder panics");
        if let Some(trouble) = trouble.as_ref().filter(|trouble| told.as_ref() != Some(*trouble)) {
            tracing::warn!("{trouble}");
        }
        *told = trouble;
        // Unchanged is what a failed write leaves.
        written.unwrap_or(Replaced::Same)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().expect("no holder panics").clone()
    }
}

/// What a machine's file says without us.
pub(super) fn without_block(machine: &[u8], suffix: &str) -> Vec<u8> {
    block::without(machine, suffix)
}

/// Takes our block, and nothing else, out of a hosts file.
pub fn remove_block(path: &Path, suffix: &str) -> io::Result<Replaced> {
    let removed = replace(path, BYTES_MAX, |found| block::without(found, suffix))?;
    sweep(path)?;
    Ok(removed)
}
