//! What a shim knows about its program, on disk before every effect, so that the next shim can take over.

use super::tlv::{Malformed, Reader, Writer};

/// Proof that a pid is still the same process: (boot, pid, pidfd inode, start time). The pidfd is opened first and
/// compared after, so the pid cannot have been used again in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// /proc/sys/kernel/random/boot_id
    pub boot_id: String,
    pub pid: u32,
    /// Inode of the pidfd, unique per boot on kernels from 6.9; 0 when not known.
    pub pidfd_inode: u64,
    /// Field 22 of /proc/PID/stat, clock ticks since boot; a check, 10 ms coarse.
    pub start_ticks: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal {
        number: u8,
        core: bool,
    },
    /// The program could not be executed; errno of execve(2) or of a step before it.
    ExecFailed {
        errno: i32,
    },
    /// Killed because `run_limit_ms` was over.
    TimeLimit,
    /// It is gone and nobody could know how: never shown as a success.
    Unknown,
}

impl Exit {
    /// From a wait status (wait(2)).
    pub fn from_wait_status(status: i32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 {
            Self::Code(low_byte(status >> 8))
        } else {
            Self::Signal { number: low_byte(signal), core: status & 0x80 != 0 }
        }
    }

    /// (kind, value) as events and records carry it.
    pub fn to_parts(self) -> (u16, i32) {
        match self {
            Self::Code(code) => (1, i32::from(code)),
            Self::Signal { number, core } => (2, i32::from(number) | if core { 0x100 } else { 0 }),
            Self::ExecFailed { errno } => (3, errno),
            Self::TimeLimit => (4, 0),
            Self::Unknown => (5, 0),
        }
    }

    pub fn from_parts(kind: u16, value: i32) -> Option<Self> {
        match kind {
            1 => Some(Self::Code(low_byte(value))),
            2 => Some(Self::Signal { number: low_byte(value), core: value & 0x100 != 0 }),
            3 => Some(Self::ExecFailed { errno: value }),
            4 => Some(Self::TimeLimit),
            5 => Some(Self::Unknown),
            _ => None,
        }
    }
}

fn low_byte(value: i32) -> u8 {
    value.to_le_bytes()[0]
}

/// Where the instance stands. The data of a phase lives in the phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs and nothing will until `Start`.
    Down,
    /// Forked, behind the start gate or before the first proof of exec.
    Starting {
        program: Identity,
    },
    Up {
        program: Identity,
        since_real_ns: u64,
        ready: bool,
    },
    /// Asked to stop; the tree is killed at `kill_at_boot_ms` (CLOCK_BOOTTIME).
    Stopping {
        program: Identity,
        kill_at_boot_ms: u64,
        then: AfterStop,
    },
    /// The program ended by itself and left processes behind: they end before a second copy starts.
    Clearing {
        kill_at_boot_ms: u64,
        then: AfterStop,
    },
    Backoff {
        retry_at_boot_ms: u64,
    },
    /// Crash loop: tried again every few minutes.
    Quarantined {
        retry_at_boot_ms: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterStop {
    StayDown,
    StartAgain,
    /// The exit has been recorded; the restart policy decides.
    Policy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub phase: Phase,
    /// Starts so far; the current or last one's number.
    pub incarnation: u32,
    /// Exits in a row without having been stable.
    pub unstable_exits: u32,
    pub last_exit: Option<LastExit>,
    /// Sequence number of the last event written.
    pub event_seq: u64,
    /// Highest epoch that gave an order; lower ones are refused.
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastExit {
    pub exit: Exit,
    pub at_real_ns: u64,
    pub incarnation: u32,
    pub uptime_ms: u64,
}

const PHASE: u16 = 1;
const BOOT_ID: u16 = 2;
const PID: u16 = 3;
const PIDFD_INODE: u16 = 4;
const START_TICKS: u16 = 5;
const SINCE_REAL_NS: u16 = 6;
const READY: u16 = 7;
const DEADLINE_BOOT_MS: u16 = 8;
const AFTER_STOP: u16 = 9;
const INCARNATION: u16 = 10;
const UNSTABLE_EXITS: u16 = 11;
const EXIT_KIND: u16 = 12;
const EXIT_VALUE: u16 = 13;
const EXIT_AT_REAL_NS: u16 = 14;
const EXIT_INCARNATION: u16 = 15;
const EXIT_UPTIME_MS: u16 = 16;
const EVENT_SEQ: u16 = 17;
const EPOCH: u16 = 18;

impl Phase {
    /// Short word for logs, `state` files and status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Starting { .. } => "starting",
            Self::Up { .. } => "up",
            Self::Stopping { .. } => "stopping",
            Self::Clearing { .. } => "clearing",
            Self::Backoff { .. } => "backoff",
            Self::Quarantined { .. } => "crash-loop",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Down => 1,
            Self::Starting { .. } => 2,
            Self::Up { .. } => 3,
            Self::Stopping { .. } => 4,
            Self::Clearing { .. } => 5,
            Self::Backoff { .. } => 6,
            Self::Quarantined { .. } => 7,
        }
    }

    /// The running program, if there is one.
    pub fn program(&self) -> Option<&Identity> {
        match self {
            Self::Starting { program } | Self::Up { program, .. } | Self::Stopping { program, .. } => Some(program),
            Self::Down | Self::Clearing { .. } | Self::Backoff { .. } | Self::Quarantined { .. } => None,
        }
    }
}

impl AfterStop {
    fn code(self) -> u8 {
        match self {
            Self::StayDown => 1,
            Self::StartAgain => 2,
            Self::Policy => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::StayDown, Self::StartAgain, Self::Policy].into_iter().find(|then| then.code() == code)
    }
}

impl State {
    /// Before the first start.
    pub fn fresh() -> Self {
        Self { phase: Phase::Down, incarnation: 0, unstable_exits: 0, last_exit: None, event_seq: 0, epoch: 0 }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(PHASE, self.phase.code())
            .u32(INCARNATION, self.incarnation)
            .u32(UNSTABLE_EXITS, self.unstable_exits)
            .u64(EVENT_SEQ, self.event_seq)
            .u64(EPOCH, self.epoch);
        if let Some(program) = self.phase.program() {
            out.text(BOOT_ID, &program.boot_id)
                .u32(PID, program.pid)
                .u64(PIDFD_INODE, program.pidfd_inode)
                .u64(START_TICKS, program.start_ticks);
        }
        match &self.phase {
            Phase::Down | Phase::Starting { .. } => {}
            Phase::Up { since_real_ns, ready, .. } => {
                out.u64(SINCE_REAL_NS, *since_real_ns).u8(READY, u8::from(*ready));
            }
            Phase::Stopping { kill_at_boot_ms, then, .. } | Phase::Clearing { kill_at_boot_ms, then } => {
                out.u64(DEADLINE_BOOT_MS, *kill_at_boot_ms).u8(AFTER_STOP, then.code());
            }
            Phase::Backoff { retry_at_boot_ms } | Phase::Quarantined { retry_at_boot_ms } => {
                out.u64(DEADLINE_BOOT_MS, *retry_at_boot_ms);
            }
        }
        if let Some(last) = &self.last_exit {
            let (kind, value) = last.exit.to_parts();
            out.u32(EXIT_KIND, u32::from(kind))
                .i32(EXIT_VALUE, value)
                .u64(EXIT_AT_REAL_NS, last.at_real_ns)
                .u32(EXIT_INCARNATION, last.incarnation)
                .u64(EXIT_UPTIME_MS, last.uptime_ms);
        }
        out.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut raw = Raw::default();
        for item in Reader::new(bytes) {
            let item = item?;
            match item.tag {
                PHASE => raw.phase = item.u8()?,
                BOOT_ID => raw.program.boot_id = item.text()?.to_owned(),
                PID => raw.program.pid = item.u32()?,
                PIDFD_INODE => raw.program.pidfd_inode = item.u64()?,
                START_TICKS => raw.program.start_ticks = item.u64()?,
                SINCE_REAL_NS => raw.since_real_ns = item.u64()?,
                READY => raw.ready = item.u8()? != 0,
                DEADLINE_BOOT_MS => raw.deadline_boot_ms = item.u64()?,
                AFTER_STOP => raw.then = AfterStop::from_code(item.u8()?),
                INCARNATION => raw.incarnation = item.u32()?,
                UNSTABLE_EXITS => raw.unstable_exits = item.u32()?,
                EXIT_KIND => {
                    raw.exit_kind = u16::try_from(item.u32()?).map_err(|_| Malformed::Value { tag: EXIT_KIND })?
                }
                EXIT_VALUE => raw.exit_value = item.i32()?,
                EXIT_AT_REAL_NS => raw.exit_at_real_ns = item.u64()?,
                EXIT_INCARNATION => raw.exit_incarnation = item.u32()?,
                EXIT_UPTIME_MS => raw.exit_uptime_ms = item.u64()?,
                EVENT_SEQ => raw.event_seq = item.u64()?,
                EPOCH => raw.epoch = item.u64()?,
                _ => {}
            }
        }
        raw.into_state()
    }
}

/// A state's items before they are known to fit together.
#[derive(Default)]
struct Raw {
    phase: u8,
    program: Identity,
    since_real_ns: u64,
    ready: bool,
    deadline_boot_ms: u64,
    then: Option<AfterStop>,
    incarnation: u32,
    unstable_exits: u32,
    exit_kind: u16,
    exit_value: i32,
    exit_at_real_ns: u64,
    exit_incarnation: u32,
    exit_uptime_ms: u64,
    event_seq: u64,
    epoch: u64,
}

impl Raw {
    fn into_state(self) -> Result<State, Malformed> {
        let last_exit = match self.exit_kind {
            0 => None,
            kind => Some(LastExit {
                exit: Exit::from_parts(kind, self.exit_value).ok_or(Malformed::Value { tag: EXIT_KIND })?,
                at_real_ns: self.exit_at_real_ns,
                incarnation: self.exit_incarnation,
                uptime_ms: self.exit_uptime_ms,
            }),
        };
        let then = || self.then.ok_or(Malformed::Missing { tag: AFTER_STOP });
        let program = || match self.program.pid {
            0 => Err(Malformed::Missing { tag: PID }),
            _ => Ok(self.program.clone()),
        };
        let deadline = self.deadline_boot_ms;
        let phase = match self.phase {
            1 => Phase::Down,
            2 => Phase::Starting { program: program()? },
            3 => Phase::Up { program: program()?, since_real_ns: self.since_real_ns, ready: self.ready },
            4 => Phase::Stopping { program: program()?, kill_at_boot_ms: deadline, then: then()? },
            5 => Phase::Clearing { kill_at_boot_ms: deadline, then: then()? },
            6 => Phase::Backoff { retry_at_boot_ms: deadline },
            7 => Phase::Quarantined { retry_at_boot_ms: deadline },
            _ => return Err(Malformed::Value { tag: PHASE }),
        };
        Ok(State {
            phase,
            incarnation: self.incarnation,
            unstable_exits: self.unstable_exits,
            last_exit,
            event_seq: self.event_seq,
            epoch: self.epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_survives_its_file() {
        let program = Identity { boot_id: "b".into(), pid: 7, pidfd_inode: 9, start_ticks: 11 };
        let phases = [
            Phase::Down,
            Phase::Starting { program: program.clone() },
            Phase::Up { program: program.clone(), since_real_ns: 5, ready: true },
            Phase::Stopping { program, kill_at_boot_ms: 6, then: AfterStop::StartAgain },
            Phase::Clearing { kill_at_boot_ms: 7, then: AfterStop::Policy },
            Phase::Backoff { retry_at_boot_ms: 8 },
            Phase::Quarantined { retry_at_boot_ms: 9 },
        ];
        let exit = Exit::Signal { number: 9, core: true };
        for phase in phases {
            let state = State {
                phase,
                incarnation: 3,
                unstable_exits: 2,
                last_exit: Some(LastExit { exit, at_real_ns: 1, incarnation: 2, uptime_ms: 4 }),
                event_seq: 12,
                epoch: 4,
            };
            assert_eq!(State::decode(&state.encode()), Ok(state));
        }
    }

    #[test]
    fn wait_statuses() {
        assert_eq!(Exit::from_wait_status(0x2a00), Exit::Code(42));
        assert_eq!(Exit::from_wait_status(9), Exit::Signal { number: 9, core: false });
        assert_eq!(Exit::from_wait_status(0x8b), Exit::Signal { number: 11, core: true });
    }
}
