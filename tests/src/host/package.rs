//! The Debian package of the programs under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::Host;
use crate::program;

#[derive(Debug)]
pub struct Package {
    dir: TempDir,
    deb: PathBuf,
}

impl Package {
    /// Of the version with that suffix. The programs are small without their debug information; the suffix is written
    /// behind `agentd`, so that another version is another program.
    pub fn build(suffix: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["agentd", "agentctl"] {
            let stripped = dir.path().join(name);
            must(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(program(name)));
        }
        let agentd = dir.path().join("agentd");
        let mut bytes = fs::read(&agentd).unwrap();
        bytes.extend_from_slice(suffix.as_bytes());
        fs::write(&agentd, bytes).unwrap();
        Self::of(dir, suffix)
    }

    /// The same programs, packaged anew under another version.
    pub fn again(&self, suffix: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["agentd", "agentctl"] {
            fs::copy(self.dir.path().join(name), dir.path().join(name)).unwrap();
        }
        Self::of(dir, suffix)
    }

    fn of(dir: TempDir, suffix: &str) -> Self {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("xtask");
        must(
            Command::new(program("xtask"))
                .env("CARGO_MANIFEST_DIR", xtask)
                .args(["package", "--version-suffix", suffix, "--binaries"])
                .arg(dir.path())
                .arg("--out")
                .arg(dir.path().join("out")),
        );
        let files = fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().path());
        let deb = files.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "deb")).unwrap();
        Self { dir, deb }
    }

    pub fn is_same_as(&self, other: &Self) -> bool {
        fs::read(&self.deb).unwrap() == fs::read(&other.deb).unwrap()
    }

    /// Puts package, sums and installer into a folder of the host, as they are published.
    pub fn publish(&self, host: &Host, dir: &str) {
        let installer = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging/install.sh");
        fs::create_dir_all(host.path(dir)).unwrap();
        for file in [&installer, &self.deb] {
            fs::copy(file, host.path(dir).join(file.file_name().unwrap())).unwrap();
        }
        host.must(&format!("cd {dir} && sha256sum *.deb >SHA256SUMS"));
    }

    /// Puts package and sums where a control server has them for new hosts.
    pub fn hand_out(&self, dir: &Path) {
        let name = self.deb.file_name().unwrap();
        fs::copy(&self.deb, dir.join(name)).unwrap();
        let sums = Command::new("sha256sum").arg(name).current_dir(dir).output().unwrap();
        fs::write(dir.join("SHA256SUMS"), sums.stdout).unwrap();
    }

    /// Installs or upgrades as an administrator would; what dpkg said.
    pub fn install(&self, host: &Host) -> String {
        fs::copy(&self.deb, host.path("/var/tmp/agentd.deb")).unwrap();
        host.must("DEBIAN_FRONTEND=noninteractive dpkg --install /var/tmp/agentd.deb 2>&1")
    }
}

fn must(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
