//! From a launch to the record a shim reads. Pure.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::HELD_FDS_MAX;
use agentd_protocol::shim::spec::{SPEC_BYTES_MAX, STRING_BYTES_MAX, Spec};

use super::Error;
use super::launch::{Launch, Tmp};

// DESIGN §7.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const LOG_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
const LOG_SEGMENTS_MAX: u32 = 5;
/// The kernel prefers a program of ours as its victim to the agent that would start it again.
const OOM_SCORE_ADJ: i32 = 200;
const OPEN_FILES_MAX: u64 = 65_536;

pub(super) fn of(launch: &Launch, id: &InstanceId, log_dir: &Path, tmp_dir: &Path) -> Result<Spec, Error> {
    folder_name(&launch.service)?;
    if launch.held.len() + usize::from(launch.port.is_some()) > HELD_FDS_MAX {
        return Err(Error::TooMuch { what: "number of held descriptors", max: HELD_FDS_MAX });
    }
    let user = launch.user.clone();
    let spec = Spec {
        instance: id.to_string(),
        service: launch.service.clone(),
        argv: launch.argv.iter().map(|arg| string("argument", arg.clone())).collect::<Result<_, _>>()?,
        env: launch
            .env
            .iter()
            .map(|(name, value)| string("environment entry", format!("{name}={value}")))
            .collect::<Result<_, _>>()?,
        cwd: launch.cwd.as_os_str().as_bytes().to_vec(),
        log_dir: log_dir.as_os_str().as_bytes().to_vec(),
        restart: launch.restart,
        stop_signal: launch.stop_signal,
        stop_timeout_ms: millis(launch.stop_timeout),
        run_limit_ms: launch.run_limit.map_or(0, |limit| millis(limit).max(1)),
        stable_after_ms: millis(STABLE_AFTER),
        log_segment_bytes: LOG_SEGMENT_BYTES,
        log_segments_max: LOG_SEGMENTS_MAX,
        oom_score_adj: OOM_SCORE_ADJ,
        open_files_max: OPEN_FILES_MAX,
        // Only who asked for root by flag, or the edge, which drops everything itself, keeps what root has.
        no_new_privileges: user.is_some() || !nix::unistd::geteuid().is_root(),
        user,
        hosts_file: launch.hosts_file.as_ref().map(|path| path.as_os_str().as_bytes().to_vec()),
        tmp_dir: match launch.tmp {
            Tmp::Private => Some(tmp_dir.as_os_str().as_bytes().to_vec()),
            Tmp::Shared => None,
        },
    };
    if spec.encode().len() > SPEC_BYTES_MAX {
        return Err(Error::TooMuch { what: "size of command and environment in bytes", max: SPEC_BYTES_MAX });
    }
    Ok(spec)
}

/// One plain path component.
pub(super) fn folder_name(service: &str) -> Result<&str, Error> {
    let plain = !service.is_empty() && !service.starts_with('.') && !service.contains(['/', '\0']);
    if plain { Ok(service) } else { Err(Error::ServiceName { service: service.to_owned() }) }
}

/// The text itself may be a secret: errors do not quote it.
fn string(what: &'static str, text: String) -> Result<Vec<u8>, Error> {
    if text.contains('\0') {
        return Err(Error::NulByte { what });
    }
    if text.len() > STRING_BYTES_MAX {
        return Err(Error::TooMuch { what, max: STRING_BYTES_MAX });
    }
    Ok(text.into_bytes())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::spec::{RestartPolicy, User};

    use super::super::launch::{Gate, Label, ProbePolicy};
    use super::*;

    fn launch(service: &str, env: &str) -> Launch {
        Launch {
            service: service.into(),
            label: Label::Edge,
            argv: vec!["true".into()],
            env: vec![("A".into(), env.into())],
            cwd: "/".into(),
            port: None,
            held: Vec::new(),
            restart: RestartPolicy::Never,
            stop_signal: 15,
            stop_timeout: Duration::from_secs(30),
            run_limit: Some(Duration::from_micros(1)),
            gate: Gate::None,
            probe: ProbePolicy::default(),
            user: None,
            tmp: Tmp::Shared,
            hosts_file: Some("/h".into()),
        }
    }

    #[test]
    fn a_launch_becomes_a_spec_or_is_refused() {
        let id = InstanceId::new("abcdef012345").unwrap();
        let user = User { uid: 9, gid: 9 };
        let of = |launch: &Launch| of(launch, &id, Path::new("/l"), Path::new("/t"));
        let spec = of(&Launch { user: Some(user.clone()), tmp: Tmp::Private, ..launch("api", "b=c") }).unwrap();
        assert_eq!(spec.env, [b"A=b=c".to_vec()]);
        assert_eq!((spec.user.as_ref(), spec.no_new_privileges), (Some(&user), true));
        assert_eq!(spec.hosts_file.as_deref(), Some(&b"/h"[..]));
        assert_eq!(spec.run_limit_ms, 1, "a limit below a millisecond is not none");
        assert_eq!(spec.tmp_dir.as_deref(), Some(&b"/t"[..]));
        let spec = of(&launch("api", "")).unwrap();
        assert_eq!((spec.user, spec.tmp_dir), (None, None));
        for service in ["", "..", "a/b", ".x"] {
            assert!(matches!(of(&launch(service, "")), Err(Error::ServiceName { .. })), "{service}");
        }
        assert!(matches!(of(&launch("api", "x\0y")), Err(Error::NulByte { .. })));
        assert!(matches!(of(&launch("api", &"x".repeat(STRING_BYTES_MAX))), Err(Error::TooMuch { .. })));
    }
}
