//! The program and its secret, as they lie on disk: whether they can be used, and no more than that.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Error;
use super::settings::Identity;

/// A token is some 200 bytes, credentials are as long.
const SECRET_BYTES_MAX: u64 = 16 * 1024;
const PROGRAM: &str = "cloudflared";
const OTHERS: u32 = 0o077;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const EXECUTABLE: u32 = 0o111;

/// The bytes to be handed to the program.
pub fn secret(identity: &Identity) -> Result<Vec<u8>, Error> {
    let path = identity.file();
    let failed = |source| Error::Read { path: path.clone(), source };
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    private(path, &facts)?;
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    match identity {
        Identity::Token { .. } => token(&text).map(Vec::from).ok_or_else(|| Error::NoToken { path: path.clone() }),
        Identity::Credentials { tunnel, .. } if is_of(&text, tunnel) => Ok(text.into_bytes()),
        Identity::Credentials { tunnel, .. } => {
            Err(Error::NoCredentials { path: path.clone(), tunnel: tunnel.clone() })
        }
    }
}

fn private(path: &Path, facts: &Metadata) -> Result<(), Error> {
    let mode = facts.permissions().mode() & 0o777;
    if !facts.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    if !is_ours(facts.uid()) {
        return Err(Error::Owner { path: path.to_owned(), owner: facts.uid() });
    }
    if mode & OTHERS != 0 {
        return Err(Error::Readable { path: path.to_owned(), mode });
    }
    Ok(())
}

fn is_ours(owner: u32) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw()
}

fn token(text: &str) -> Option<&[u8]> {
    let token = text.trim();
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    (!token.is_empty() && token.bytes().all(is_base64)).then_some(token.as_bytes())
}

fn is_of(text: &str, tunnel: &str) -> bool {
    let credentials: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let id = credentials.as_ref().and_then(|found| found.get("TunnelID")).and_then(serde_json::Value::as_str);
    id.is_some_and(|id| id.eq_ignore_ascii_case(tunnel))
}

/// Where the program is: the one named, else the first on the PATH that nobody but its owner can replace.
pub fn program(named: Option<&Path>, search_path: &str) -> Result<PathBuf, Error> {
    if let Some(path) = named {
        return usable(path);
    }
    let dirs = search_path.split(':').map(Path::new).filter(|dir| dir.is_absolute());
    let is_there = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & EXECUTABLE != 0)
    };
    let found = dirs.map(|dir| dir.join(PROGRAM)).find(is_there).ok_or(Error::NoProgram)?;
    usable(&found)
}

fn usable(path: &Path) -> Result<PathBuf, Error> {
    let facts = std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mode = facts.permissions().mode() & 0o777;
    if !facts.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    if !is_ours(facts.uid()) || mode & WRITABLE_BY_OTHERS != 0 {
        return Err(Error::ProgramUnsafe { path: path.to_owned(), owner: facts.uid(), mode });
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    const UUID: &str = "6ff42ae2-765d-4adf-8112-31c55c1551ef";

    fn file(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_secret_others_may_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text, mode| secret(&Identity::Token { file: file(dir.path(), "t", text, mode) });
        assert_eq!(read("  abc+/=\n", 0o600).unwrap(), b"abc+/=");
        assert_eq!(read("abc", 0o400).unwrap(), b"abc");
        for mode in [0o640, 0o604, 0o620] {
            let error = read("hush", mode).unwrap_err();
            assert!(matches!(error, Error::Readable { .. }) && error.to_string().contains("chmod 600"), "{error}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        for text in ["", "two words", "hush\nhush", "{\"a\":1}"] {
            let error = read(text, 0o600).unwrap_err();
            assert!(matches!(error, Error::NoToken { .. }) && !error.to_string().contains("hush"), "{error}");
        }
        let folder = Identity::Token { file: dir.path().to_owned() };
        assert!(matches!(secret(&folder).unwrap_err(), Error::NotAFile { .. }));
    }

    #[test]
    fn credentials_are_those_of_the_tunnel() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let file = file(dir.path(), "c.json", text, 0o600);
            secret(&Identity::Credentials { tunnel: UUID.into(), file, hostnames: Vec::new() })
        };
        let good =
            format!("{{\"AccountTag\":\"a\",\"TunnelSecret\":\"hush\",\"TunnelID\":\"{}\"}}", UUID.to_uppercase());
        assert_eq!(read(&good).unwrap(), good.as_bytes());
        for text in ["{", "{}", "{\"TunnelID\":\"other\",\"TunnelSecret\":\"hush\"}"] {
            let error = read(text).unwrap_err();
            assert!(matches!(error, Error::NoCredentials { .. }) && !error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_program_others_can_replace_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), PROGRAM, "", 0o755);
        let search = format!("relative:/nowhere:{}", dir.path().display());
        assert_eq!(program(None, &search).unwrap(), path);
        assert_eq!(program(Some(&path), "").unwrap(), path);
        assert!(matches!(program(None, "/nowhere"), Err(Error::NoProgram)));
        file(dir.path(), PROGRAM, "", 0o775);
        assert!(matches!(program(None, &search), Err(Error::ProgramUnsafe { .. })));
        assert!(matches!(program(Some(Path::new("/nowhere/x")), ""), Err(Error::Read { .. })));
    }
}
