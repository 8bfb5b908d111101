//! The one hosts file that every instance sees in the place of /etc/hosts: the machine's own lines, then the services'
//! names. One file for all, changed in place, since a mount shows the inode it was made with: instances that run see a
//! new service at once.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use agentd_protocol::ids::ServiceName;
use agentd_protocol::shim::hosts::MACHINE_HOSTS_FILE;
use agentd_sys::causes::chain;
use agentd_sys::files::{self, Written};
use agentd_sys::replace::Replaced;
use tokio::sync::Notify;

use super::machine_hosts::{MachineHosts, without_block};

/// Everyone reads it, whoever the services run as.
const MODE: u32 = 0o644;
/// The machine's own file is read up to here; one that is longer is nobody's hosts file.
const MACHINE_BYTES_MAX: u64 = 1024 * 1024;
/// Where names of services lead: to the internal listener. No IPv6: nothing listens there.
const ADDRESS: &str = "127.0.0.1";
const LOCALHOST: &str = "localhost";

/// Whether instances get the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    ToInstances,
    /// The host refuses private mounts; what it costs has been said.
    ToNobody,
}

#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    suffix: String,
    given: Given,
    names: Mutex<Names>,
    /// The names for everybody else; none but in the machine's own layout.
    machine: Option<MachineHosts>,
    /// Told when we replaced the machine's file: mounts over the old one have ended.
    replaced: Notify,
}

/// What the file was last made from.
#[derive(Debug, Default)]
struct Names {
    /// `None` until a document is in force: what an earlier manager wrote stays till then.
    services: Option<Vec<ServiceName>>,
    /// Plain names that are the machine's own.
    taken: Vec<ServiceName>,
    machine_inode: Option<(u64, u64)>,
}

/// Since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MachineFile {
    /// The very file, whatever it says.
    Same,
    /// Replaced by another; also at the first look.
    Another,
}

impl HostsFile {
    /// Makes the file unless it is there: one that an earlier manager left is what running instances see.
    pub fn prepare(path: &Path, suffix: &str) -> io::Result<Self> {
        if !path.exists() {
            let text = text(&machine(), &[], suffix).bytes;
            files::write_in_place(path, &text, MODE)?;
        }
        let (path, suffix) = (path.to_owned(), suffix.to_owned());
        let (given, names) = (Given::ToInstances, Mutex::default());
        Ok(Self { path, suffix, given, names, machine: None, replaced: Notify::new() })
    }

    /// Keeps the names in the machine's own file too.
    #[must_use]
    pub fn and_for_machine(self, machine: MachineHosts) -> Self {
        Self { machine: Some(machine), ..self }
    }

    #[must_use]
    pub fn given(self, given: Given) -> Self {
        Self { given, ..self }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn for_instances(&self) -> Option<PathBuf> {
        match self.given {
            Given::ToInstances => Some(self.path.clone()),
            Given::ToNobody => None,
        }
    }

    /// The services of the document in force. Comes before the launch of any instance that may ask for them.
    pub(super) fn set(&self, services: Vec<ServiceName>) {
        let mut names = self.names.lock().expect("no holder panics");
        names.services = Some(services);
        self.write(&mut names);
    }

    /// Again from what the machine's own file says now: reading a few lines is cheaper than watching them well.
    pub(super) fn refresh(&self) -> MachineFile {
        let mut names = self.names.lock().expect("no holder panics");
        if names.services.is_some() {
            self.write(&mut names);
        }
        let inode = std::fs::metadata(MACHINE_HOSTS_FILE).ok().map(|facts| (facts.dev(), facts.ino()));
        if names.machine_inode == inode {
            return MachineFile::Same;
        }
        names.machine_inode = inode;
        MachineFile::Another
    }

    /// Takes the names out of the machine's own file; instances keep theirs for as long as they run.
    pub(super) fn withdraw(&self) {
        self.names.lock().expect("no holder panics").services = None;
        if let Some(machine) = &self.machine {
            machine.set(&[]);
        }
    }

    /// Resolves when running instances may have lost their file.
    pub(super) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    fn write(&self, names: &mut Names) {
        let services = names.services.as_deref().unwrap_or_default();
        if let Some(machine) = &self.machine
            && machine.set(services) == Replaced::Renamed
        {
            self.replaced.notify_one();
        }
        let mut machines = machine();
        if self.machine.is_some() {
            // Its comments would say of the instances' file what is not true of it.
            machines = without_block(&machines, &self.suffix);
        }
        let made = text(&machines, services, &self.suffix);
        match files::write_in_place(&self.path, &made.bytes, MODE) {
            Ok(Written::Changed) => tracing::info!(services = services.len(), "names of services written"),
            Ok(Written::Same) => {}
            Err(error) => {
                tracing::error!(path = %self.path.display(), error = chain(&error), "instances see old names");
            }
        }
        if made.taken != names.taken {
            names.taken = made.taken;
            taken_notes(&names.taken, &self.suffix).iter().for_each(|note| tracing::warn!("{note}"));
        }
    }

    /// For status: what people would not expect.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = taken_notes(&self.names.lock().expect("no holder panics").taken, &self.suffix);
        notes.extend(self.machine.as_ref().and_then(MachineHosts::trouble));
        notes
    }
}

fn taken_notes(taken: &[ServiceName], suffix: &str) -> Vec<String> {
    let note = |name: &ServiceName| {
        format!("the plain name `{name}` stays what /etc/hosts says it is; call the service {name}.{suffix}")
    };
    taken.iter().map(note).collect()
}

/// The machine's own file; without one, what every program counts on.
fn machine() -> Vec<u8> {
    let read = || {
        let bytes = std::fs::metadata(MACHINE_HOSTS_FILE)?.len();
        if bytes > MACHINE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        std::fs::read(MACHINE_HOSTS_FILE)
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "/etc/hosts cannot be read: instances find `localhost` and services");
        format!("{ADDRESS} {LOCALHOST}\n").into_bytes()
    })
}

struct Text {
    bytes: Vec<u8>,
    /// Services whose plain name the machine's own file defines.
    taken: Vec<ServiceName>,
}

/// One name a line: musl reads 512 bytes of a line. Bytes, for a comment may hold anything.
fn text(machine: &[u8], services: &[ServiceName], suffix: &str) -> Text {
    let full = |name: &ServiceName| format!("{name}.{suffix}");
    let ours: BTreeSet<Vec<u8>> = services.iter().map(|name| full(name).into_bytes()).collect();
    let mut theirs = BTreeSet::from([LOCALHOST.as_bytes().to_vec()]);
    let mut bytes = Vec::new();
    for line in machine.split_inclusive(|byte| *byte == b'\n') {
        let Some(kept) = without(line, &ours) else { continue };
        theirs.extend(names(&kept).map(<[u8]>::to_ascii_lowercase));
        bytes.extend_from_slice(&kept);
    }
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    let mut taken = Vec::new();
    bytes.extend_from_slice(b"# services of agentd, rewritten with every change of the stack\n");
    for name in services {
        bytes.extend_from_slice(format!("{ADDRESS} {}\n", full(name)).as_bytes());
        if theirs.contains(name.as_str().as_bytes()) {
            taken.push(name.clone());
        } else {
            bytes.extend_from_slice(format!("{ADDRESS} {name}\n").as_bytes());
        }
    }
    Text { bytes, taken }
}

/// The names a line defines: all words but the address, up to a comment.
fn names(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).skip(1)
}

/// The line without our names; `None` when it defined nothing else. A line that has none of them stays as it is.
fn without(line: &[u8], ours: &BTreeSet<Vec<u8>>) -> Option<Vec<u8>> {
    let is_ours = |name: &&[u8]| ours.contains(&name.to_ascii_lowercase());
    if !names(line).any(|name| is_ours(&name)) {
        return Some(line.to_vec());
    }
    let kept: Vec<&[u8]> = names(line).filter(|name| !is_ours(name)).collect();
    let address = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    (!kept.is_empty()).then(|| [address, b" ", &kept.join(&b' '), b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(names: &[&str]) -> Vec<ServiceName> {
        names.iter().map(|name| ServiceName::new(*name).unwrap()).collect()
    }

    fn made(machine: &str, names: &[&str]) -> (String, Vec<String>) {
        let text = text(machine.as_bytes(), &services(names), "svc.internal");
        (String::from_utf8(text.bytes).unwrap(), text.taken.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_machines_lines_come_first_and_each_name_has_its_own() {
        let (text, taken) = made("127.0.0.1 localhost\n::1 localhost ip6-loopback\n10.0.0.5 db", &["api", "web"]);
        assert_eq!(
            text,
            "127.0.0.1 localhost\n::1 localhost ip6-loopback\n10.0.0.5 db\n\
             # services of agentd, rewritten with every change of the stack\n\
             127.0.0.1 api.svc.internal\n127.0.0.1 api\n127.0.0.1 web.svc.internal\n127.0.0.1 web\n"
        );
        assert_eq!(taken, [""; 0]);
    }

    #[test]
    fn a_plain_name_of_the_machine_is_not_taken_from_it() {
        let (text, taken) = made("10.0.0.5 DB # api\n#10.0.0.6 web\n", &["api", "db", "localhost", "web"]);
        assert_eq!(taken, ["db", "localhost"]);
        for line in ["127.0.0.1 db\n", "127.0.0.1 localhost\n"] {
            assert!(!text.contains(line), "{text}");
        }
        for line in ["127.0.0.1 api\n", "127.0.0.1 web\n", "127.0.0.1 db.svc.internal\n"] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn full_names_are_ours_alone_and_the_rest_of_a_line_stays() {
        let machine =
            "10.0.0.5 Api.svc.internal\n10.0.0.6\tdb  api.svc.internal other # note\n10.0.0.7 x.svc.internal\n";
        let (text, _) = made(machine, &["api"]);
        assert!(text.starts_with("10.0.0.6 db other\n10.0.0.7 x.svc.internal\n#"), "{text}");
        assert_eq!(text.matches("api.svc.internal").count(), 1);
    }

    #[test]
    fn odd_bytes_stay_as_they_are() {
        let odd = b"\xff\xfe comment\r\n127.0.0.1\tlocalhost\r\n";
        assert!(text(odd, &[], "svc.internal").bytes.starts_with(odd));
    }
}
