//! Keys for private repositories, and the pinned keys of the hosts they are used with.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::ids::ServiceName;
use agentd_sys::files::{Durability, make_dir, write_atomic};

use crate::classify::telling_line;
use crate::command::{Invocation, RunError, run};
use crate::error::Error;

/// An Ed25519 key takes milliseconds; a host short of entropy, longer.
const KEYGEN_DEADLINE: Duration = Duration::from_secs(30);
const KEYGEN_OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// Pinned keys of all hosts, bytes.
const KNOWN_HOSTS_BYTES_MAX: u64 = 1024 * 1024;
const ALGORITHMS: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// Makes the Ed25519 key pair `dir/name` and `dir/name.pub`, 0600, without passphrase; returns the public key, to be
/// entered as deploy key at the forge. Never replaces a key.
pub async fn new_key(dir: &Path, name: &str) -> Result<String, Error> {
    // The rule of service names is also a safe rule for file names.
    ServiceName::new(name).map_err(|_bad| Error::BadKeyName { name: name.to_owned() })?;
    make_dir(dir, 0o700).map_err(Error::io("make folder", dir))?;
    let temp_dir = dir.join(format!(".new-{name}-{}", std::process::id()));
    std::fs::DirBuilder::new().create(&temp_dir).map_err(Error::io("make folder", &temp_dir))?;
    let made = make_pair(dir, name, &temp_dir).await;
    // Two small files at most: not worth another thread.
    std::fs::remove_dir_all(&temp_dir).map_err(Error::io("remove", &temp_dir))?;
    made
}

async fn make_pair(dir: &Path, name: &str, temp_dir: &Path) -> Result<String, Error> {
    let temp_path = temp_dir.join("key");
    let mut args: Vec<_> = ["-q", "-t", "ed25519", "-N", "", "-C"].map(Into::into).to_vec();
    args.extend([format!("agentd {name}").into(), "-f".into(), temp_path.clone().into()]);
    let invocation = Invocation {
        program: Path::new("ssh-keygen"),
        args,
        env: vec![("HOME", dir.into()), ("LC_ALL", "C".into())],
        current_dir: dir,
        stdin: Stdio::null(),
        stdout_bytes_max: KEYGEN_OUTPUT_BYTES_MAX,
        deadline: KEYGEN_DEADLINE,
    };
    let finished = run(invocation).await.map_err(|error| match error {
        RunError::NotStarted(source) => Error::KeygenMissing { source: Arc::new(source) },
        RunError::TimedOut | RunError::TooMuchOutput => Error::KeygenFailed { line: "it did not end".to_owned() },
        RunError::Pipe(source) => {
            Error::Io { operation: "read from", path: "ssh-keygen".into(), source: Arc::new(source) }
        }
    })?;
    if !finished.success {
        return Err(Error::KeygenFailed { line: telling_line(&finished.stderr) });
    }
    let temp_public_path = temp_path.with_extension("pub");
    let public = std::fs::read_to_string(&temp_public_path).map_err(Error::io("read", &temp_public_path))?;
    let path = dir.join(name);
    // link(2), not rename(2): it fails where a key exists. The private half first: it decides.
    match std::fs::hard_link(&temp_path, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::KeyExists { path }),
        Err(error) => return Err(Error::io("write", &path)(error)),
        Ok(()) => {}
    }
    let public_path = dir.join(format!("{name}.pub"));
    write_atomic(&public_path, public.as_bytes(), 0o600, Durability::PowerCut)
        .map_err(Error::io("write", &public_path))?;
    Ok(public.trim().to_owned())
}

/// Pins a host's key. `line` is `ALGORITHM BASE64`, or what ssh-keyscan prints (`HOST ALGORITHM BASE64`). Again is fine;
/// another key of the same algorithm is refused.
pub fn pin_host(known_hosts_file: &Path, host: &str, line: &str) -> Result<(), Error> {
    let pin = Pin::parse(host, line)?;
    let text = match std::fs::metadata(known_hosts_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Ok(metadata) if metadata.len() > KNOWN_HOSTS_BYTES_MAX => {
            return Err(Error::io("read", known_hosts_file)(io::ErrorKind::FileTooLarge.into()));
        }
        Err(error) => return Err(Error::io("read", known_hosts_file)(error)),
        Ok(_) => std::fs::read_to_string(known_hosts_file).map_err(Error::io("read", known_hosts_file))?,
    };
    match pin.added_to(&text) {
        Added::Already => Ok(()),
        Added::Conflict => Err(Error::HostKeyConflict {
            host: pin.host.to_owned(),
            algorithm: pin.algorithm.to_owned(),
            path: known_hosts_file.to_owned(),
        }),
        Added::Text(text) => write_atomic(known_hosts_file, text.as_bytes(), 0o600, Durability::PowerCut)
            .map_err(Error::io("write", known_hosts_file)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pin<'a> {
    host: &'a str,
    algorithm: &'a str,
    key: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
enum Added {
    Already,
    Conflict,
    Text(String),
}

impl<'a> Pin<'a> {
    fn parse(host: &'a str, line: &'a str) -> Result<Self, Error> {
        let bad = |rule| Err(Error::BadHostKey { rule });
        let host_fine =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(host_fine) {
            return bad("the host must be a name, an address, or [NAME]:PORT");
        }
        if line.trim().contains(['\n', '\r']) {
            return bad("one line, one key");
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (algorithm, key) = match fields.as_slice() {
            [first, key, ..] if ALGORITHMS.contains(first) => (*first, *key),
            [named, algorithm, key, ..] if *named == host && ALGORITHMS.contains(algorithm) => (*algorithm, *key),
            _ => return bad("`ALGORITHM BASE64`, or what ssh-keyscan prints for this host"),
        };
        if !key.starts_with("AAAA")
            || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
        {
            return bad("the key must be base64");
        }
        Ok(Self { host, algorithm, key })
    }

    fn added_to(&self, text: &str) -> Added {
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [hosts, algorithm, key, ..] = fields.as_slice()
                && hosts.split(',').any(|host| host == self.host)
                && *algorithm == self.algorithm
            {
                return if *key == self.key { Added::Already } else { Added::Conflict };
            }
        }
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        Added::Text(format!("{text}{newline}{} {} {}\n", self.host, self.algorithm, self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[tokio::test]
    async fn a_key_is_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let keys_dir = dir.path().join("keys");
        let public = new_key(&keys_dir, "shop").await.unwrap();
        assert!(public.starts_with("ssh-ed25519 AAAA") && public.ends_with("agentd shop"), "{public}");
        let private = std::fs::read(keys_dir.join("shop")).unwrap();
        assert_eq!(keys_dir.join("shop").metadata().unwrap().mode() & 0o777, 0o600);
        assert!(matches!(new_key(&keys_dir, "shop").await, Err(Error::KeyExists { .. })));
        assert_eq!(std::fs::read(keys_dir.join("shop")).unwrap(), private);
        assert_eq!(std::fs::read_dir(&keys_dir).unwrap().count(), 2);
        for bad in ["", "../x", "a/b", "-f"] {
            assert!(matches!(new_key(&keys_dir, bad).await, Err(Error::BadKeyName { .. })), "{bad}");
        }
    }

    #[test]
    fn pins_are_added_once_and_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        pin_host(&path, "h", "ssh-ed25519 AAAAone").unwrap();
        pin_host(&path, "h", "h ssh-ed25519 AAAAone comment\n").unwrap();
        pin_host(&path, "h", "ssh-rsa AAAAtwo").unwrap();
        pin_host(&path, "[h]:2222", "ssh-ed25519 AAAAthree").unwrap();
        assert!(matches!(pin_host(&path, "h", "ssh-ed25519 AAAAother"), Err(Error::HostKeyConflict { .. })));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "h ssh-ed25519 AAAAone\nh ssh-rsa AAAAtwo\n[h]:2222 ssh-ed25519 AAAAthree\n"
        );
    }

    #[test]
    fn hostile_pins_are_refused() {
        let path = Path::new("/nonexistent/known_hosts");
        for (host, line) in [
            ("h", "ssh-ed25519 AAAA\n* ssh-ed25519 AAAA"),
            ("*", "ssh-ed25519 AAAA"),
            ("h,*", "ssh-ed25519 AAAA"),
            ("h", "other ssh-ed25519 AAAA"),
            ("h", "@cert-authority ssh-ed25519 AAAA"),
            ("h", "ssh-dss AAAA"),
            ("h", "ssh-ed25519 !"),
            ("", "ssh-ed25519 AAAA"),
        ] {
            assert!(matches!(pin_host(path, host, line), Err(Error::BadHostKey { .. })), "{host} {line}");
        }
    }
}
