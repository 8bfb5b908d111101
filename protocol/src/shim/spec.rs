//! What a shim is to run. Written by the manager, never changed: another release is another instance.

use super::tlv::{Malformed, Reader, Writer};

/// What to do when the program ends without having been asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    /// Anything but exit status 0.
    OnFailure,
    /// Builds and jobs: the exit is recorded and the shim waits in `Down` for `Leave`.
    Never,
}

/// Everything a shim needs to know, for the life of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub instance: String,
    /// Service name, or `edge`, or `build.<service>`; for logs and for people reading `ps`.
    pub service: String,
    /// Absolute path or a name looked up in the PATH of `env`; then the arguments. Never empty.
    pub argv: Vec<Vec<u8>>,
    /// Complete environment, `NAME=value`; nothing is inherited. The shim adds INSTANCE_ENV and LISTEN_*.
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
    /// Ids to become before exec; `None` keeps the shim's own (a manager that is a plain user).
    pub user: Option<User>,
    /// Folder of the log segments; exists when the shim starts.
    pub log_dir: Vec<u8>,
    pub restart: RestartPolicy,
    /// Signal number sent first when stopping.
    pub stop_signal: i32,
    /// From the stop signal to SIGKILL of the whole tree, ms.
    pub stop_timeout_ms: u64,
    /// From start to a kill of the whole tree, ms; 0 is no limit. Builds have one.
    pub run_limit_ms: u64,
    /// Up for so long (and ready, when a manager is there to say so) counts as stable, ms.
    pub stable_after_ms: u64,
    /// A segment is sealed at the first line end past so many bytes.
    pub log_segment_bytes: u64,
    pub log_segments_max: u32,
    /// /proc/self/oom_score_adj of the program.
    pub oom_score_adj: i32,
    /// Soft and hard RLIMIT_NOFILE of the program; 0 keeps the inherited one.
    pub open_files_max: u64,
    /// Adds PR_SET_NO_NEW_PRIVS and drops every capability (always true but for explicit root runs).
    pub no_new_privileges: bool,
    /// Shown to the program in the place of /etc/hosts, where the host lets us (see [`super::hosts`]). `None`: the
    /// program sees the machine's own.
    pub hosts_file: Option<Vec<u8>>,
    /// Folder of the instance alone, with [`PRIVATE_TMP`] and [`PRIVATE_VAR_TMP`] in it, which the program sees in the
    /// place of /tmp and /var/tmp. Only a shim of root's can; the program runs all the same without.
    pub tmp_dir: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// What of `tmp_dir` is shown as /tmp.
pub const PRIVATE_TMP: &str = "tmp";
/// What of `tmp_dir` is shown as /var/tmp.
pub const PRIVATE_VAR_TMP: &str = "var-tmp";

/// Most bytes of one argument or environment entry (Linux: MAX_ARG_STRLEN, 32 pages).
pub const STRING_BYTES_MAX: usize = 128 * 1024 - 1;
/// Most bytes of a spec file; a shim refuses more.
pub const SPEC_BYTES_MAX: usize = 2 * 1024 * 1024;

const INSTANCE: u16 = 1;
const SERVICE: u16 = 2;
const ARG: u16 = 3;
const ENV: u16 = 4;
const CWD: u16 = 5;
const UID: u16 = 6;
const GID: u16 = 7;
const LOG_DIR: u16 = 8;
const RESTART: u16 = 9;
const STOP_SIGNAL: u16 = 10;
const STOP_TIMEOUT_MS: u16 = 11;
const RUN_LIMIT_MS: u16 = 12;
const STABLE_AFTER_MS: u16 = 13;
const LOG_SEGMENT_BYTES: u16 = 14;
const LOG_SEGMENTS_MAX: u16 = 15;
const OOM_SCORE_ADJ: u16 = 16;
const OPEN_FILES_MAX: u16 = 17;
const NO_NEW_PRIVILEGES: u16 = 18;
const HOSTS_FILE: u16 = 19;
const TMP_DIR: u16 = 20;

impl RestartPolicy {
    fn code(self) -> u8 {
        match self {
            Self::Always => 1,
            Self::OnFailure => 2,
            Self::Never => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Always, Self::OnFailure, Self::Never].into_iter().find(|policy| policy.code() == code)
    }
}

impl Spec {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.text(INSTANCE, &self.instance).text(SERVICE, &self.service);
        for arg in &self.argv {
            out.bytes(ARG, arg);
        }
        for entry in &self.env {
            out.bytes(ENV, entry);
        }
        out.bytes(CWD, &self.cwd);
        if let Some(user) = &self.user {
            out.u32(UID, user.uid).u32(GID, user.gid);
        }
        out.bytes(LOG_DIR, &self.log_dir)
            .u8(RESTART, self.restart.code())
            .i32(STOP_SIGNAL, self.stop_signal)
            .u64(STOP_TIMEOUT_MS, self.stop_timeout_ms)
            .u64(RUN_LIMIT_MS, self.run_limit_ms)
            .u64(STABLE_AFTER_MS, self.stable_after_ms)
            .u64(LOG_SEGMENT_BYTES, self.log_segment_bytes)
            .u32(LOG_SEGMENTS_MAX, self.log_segments_max)
            .i32(OOM_SCORE_ADJ, self.oom_score_adj)
            .u64(OPEN_FILES_MAX, self.open_files_max)
            .u8(NO_NEW_PRIVILEGES, u8::from(self.no_new_privileges));
        if let Some(path) = &self.hosts_file {
            out.bytes(HOSTS_FILE, path);
        }
        if let Some(path) = &self.tmp_dir {
            out.bytes(TMP_DIR, path);
        }
        out.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut spec = Self::defaults();
        let (mut uid, mut gid) = (None, None);
        for item in Reader::new(bytes) {
            let item = item?;
            match item.tag {
                INSTANCE => spec.instance = item.text()?.to_owned(),
                SERVICE => spec.service = item.text()?.to_owned(),
                ARG => spec.argv.push(item.bytes.to_vec()),
                ENV => spec.env.push(item.bytes.to_vec()),
                CWD => spec.cwd = item.bytes.to_vec(),
                UID => uid = Some(item.u32()?),
                GID => gid = Some(item.u32()?),
                LOG_DIR => spec.log_dir = item.bytes.to_vec(),
                RESTART => {
                    spec.restart = RestartPolicy::from_code(item.u8()?).ok_or(Malformed::Value { tag: RESTART })?;
                }
                STOP_SIGNAL => spec.stop_signal = item.i32()?,
                STOP_TIMEOUT_MS => spec.stop_timeout_ms = item.u64()?,
                RUN_LIMIT_MS => spec.run_limit_ms = item.u64()?,
                STABLE_AFTER_MS => spec.stable_after_ms = item.u64()?,
                LOG_SEGMENT_BYTES => spec.log_segment_bytes = item.u64()?,
                LOG_SEGMENTS_MAX => spec.log_segments_max = item.u32()?,
                OOM_SCORE_ADJ => spec.oom_score_adj = item.i32()?,
                OPEN_FILES_MAX => spec.open_files_max = item.u64()?,
                NO_NEW_PRIVILEGES => spec.no_new_privileges = item.u8()? != 0,
                HOSTS_FILE => spec.hosts_file = Some(item.bytes.to_vec()),
                TMP_DIR => spec.tmp_dir = Some(item.bytes.to_vec()),
                _ => {}
            }
        }
        spec.user = match (uid, gid) {
            (Some(uid), Some(gid)) => Some(User { uid, gid }),
            (None, None) => None,
            (Some(_), None) => return Err(Malformed::Missing { tag: GID }),
            (None, Some(_)) => return Err(Malformed::Missing { tag: UID }),
        };
        for (tag, empty) in [
            (INSTANCE, spec.instance.is_empty()),
            (ARG, spec.argv.is_empty()),
            (CWD, spec.cwd.is_empty()),
            (LOG_DIR, spec.log_dir.is_empty()),
        ] {
            if empty {
                return Err(Malformed::Missing { tag });
            }
        }
        Ok(spec)
    }

    /// What an absent item means (DESIGN §7): an older writer's spec stays readable.
    fn defaults() -> Self {
        Self {
            instance: String::new(),
            service: String::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: Vec::new(),
            user: None,
            log_dir: Vec::new(),
            restart: RestartPolicy::Always,
            stop_signal: 15,
            stop_timeout_ms: 30_000,
            run_limit_ms: 0,
            stable_after_ms: 10_000,
            log_segment_bytes: 8 * 1024 * 1024,
            log_segments_max: 5,
            oom_score_adj: 200,
            open_files_max: 65_536,
            no_new_privileges: true,
            hosts_file: None,
            tmp_dir: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_its_file() {
        let spec = Spec {
            instance: "abcdef012345".into(),
            service: "api".into(),
            argv: vec![b"/bin/sh".to_vec(), b"-c".to_vec(), b"exec true".to_vec()],
            env: vec![b"PORT=20000".to_vec(), vec![b'X', b'=', 0xff]],
            cwd: b"/tmp".to_vec(),
            user: Some(User { uid: 65_534, gid: 65_534 }),
            log_dir: b"/var/log/agentd/api/abcdef012345".to_vec(),
            restart: RestartPolicy::OnFailure,
            stop_signal: 3,
            run_limit_ms: 1,
            hosts_file: Some(b"/run/hosts".to_vec()),
            tmp_dir: Some(b"/var/lib/agentd/tmp/abcdef012345".to_vec()),
            ..Spec::defaults()
        };
        assert_eq!(Spec::decode(&spec.encode()), Ok(spec));
    }

    #[test]
    fn half_a_user_is_refused() {
        let mut out = Writer::new();
        out.u32(UID, 1);
        assert_eq!(Spec::decode(&out.finish()), Err(Malformed::Missing { tag: GID }));
    }
}
