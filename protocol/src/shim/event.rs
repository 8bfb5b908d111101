//! What happened to an instance, as fixed records: appended by the shim, delivered to the manager at least once.

use super::state::Exit;

pub const EVENT_BYTES: usize = 64;
pub const REAP_BYTES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Started,
    /// `uptime_ms` tells how long it ran.
    Exited {
        exit: Exit,
        uptime_ms: u64,
    },
    /// Next start at `retry_at_boot_ms`.
    Backoff {
        retry_at_boot_ms: u64,
    },
    Quarantined {
        retry_at_boot_ms: u64,
    },
    Stopping,
    /// Nothing of the tree is left and nothing will start by itself.
    Stopped,
    /// A new shim took over a running program.
    Adopted,
    /// Processes the program left behind were killed.
    Stragglers {
        count: u32,
    },
    LogDropped {
        bytes: u64,
    },
    /// A process of the tree survives SIGKILL (uninterruptible wait in the kernel).
    Unkillable {
        count: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub seq: u64,
    pub real_ns: u64,
    pub boot_ms: u64,
    pub incarnation: u32,
    /// The program's pid where there is one, else 0.
    pub pid: u32,
    pub kind: EventKind,
}

impl Event {
    pub fn encode(&self) -> [u8; EVENT_BYTES] {
        let (kind, exit_kind, value, wide) = match self.kind {
            EventKind::Started => (1u16, 0u16, 0i32, 0u64),
            EventKind::Exited { exit, uptime_ms } => {
                let (exit_kind, value) = exit.to_parts();
                (2, exit_kind, value, uptime_ms)
            }
            EventKind::Backoff { retry_at_boot_ms } => (3, 0, 0, retry_at_boot_ms),
            EventKind::Quarantined { retry_at_boot_ms } => (4, 0, 0, retry_at_boot_ms),
            EventKind::Stopping => (5, 0, 0, 0),
            EventKind::Stopped => (6, 0, 0, 0),
            EventKind::Adopted => (7, 0, 0, 0),
            EventKind::Stragglers { count } => (8, 0, 0, u64::from(count)),
            EventKind::LogDropped { bytes } => (9, 0, 0, bytes),
            EventKind::Unkillable { count } => (10, 0, 0, u64::from(count)),
        };
        let mut out = Fields::<EVENT_BYTES>::default();
        out.put(&self.seq.to_le_bytes());
        out.put(&self.real_ns.to_le_bytes());
        out.put(&self.boot_ms.to_le_bytes());
        out.put(&self.incarnation.to_le_bytes());
        out.put(&self.pid.to_le_bytes());
        out.put(&kind.to_le_bytes());
        out.put(&exit_kind.to_le_bytes());
        out.put(&value.to_le_bytes());
        out.put(&wide.to_le_bytes());
        out.bytes
    }

    /// `None` for a kind this version does not know: a reader goes on with the next record.
    pub fn decode(bytes: &[u8; EVENT_BYTES]) -> Option<Self> {
        let wide = u64_at(bytes, 40);
        let kind = match u16_at(bytes, 32) {
            1 => EventKind::Started,
            2 => EventKind::Exited { exit: Exit::from_parts(u16_at(bytes, 34), i32_at(bytes, 36))?, uptime_ms: wide },
            3 => EventKind::Backoff { retry_at_boot_ms: wide },
            4 => EventKind::Quarantined { retry_at_boot_ms: wide },
            5 => EventKind::Stopping,
            6 => EventKind::Stopped,
            7 => EventKind::Adopted,
            8 => EventKind::Stragglers { count: u32::try_from(wide).ok()? },
            9 => EventKind::LogDropped { bytes: wide },
            10 => EventKind::Unkillable { count: u32::try_from(wide).ok()? },
            _ => return None,
        };
        Some(Self {
            seq: u64_at(bytes, 0),
            real_ns: u64_at(bytes, 8),
            boot_ms: u64_at(bytes, 16),
            incarnation: u32_at(bytes, 24),
            pid: u32_at(bytes, 28),
            kind,
        })
    }
}

/// One process the keeper reaped after its shim had died; appended to `keeper/exits` before the reap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReapRecord {
    pub pid: u32,
    /// As wait(2) gives it.
    pub wait_status: i32,
    pub pidfd_inode: u64,
    pub start_ticks: u64,
    pub real_ns: u64,
}

impl ReapRecord {
    pub fn encode(&self) -> [u8; REAP_BYTES] {
        let mut out = Fields::<REAP_BYTES>::default();
        out.put(&self.pid.to_le_bytes());
        out.put(&self.wait_status.to_le_bytes());
        out.put(&self.pidfd_inode.to_le_bytes());
        out.put(&self.start_ticks.to_le_bytes());
        out.put(&self.real_ns.to_le_bytes());
        out.bytes
    }

    pub fn decode(bytes: &[u8; REAP_BYTES]) -> Self {
        Self {
            pid: u32_at(bytes, 0),
            wait_status: i32_at(bytes, 4),
            pidfd_inode: u64_at(bytes, 8),
            start_ticks: u64_at(bytes, 16),
            real_ns: u64_at(bytes, 24),
        }
    }
}

/// Fills a fixed record from the front; what is left stays zero for later versions.
struct Fields<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Default for Fields<N> {
    fn default() -> Self {
        Self { bytes: [0; N], at: 0 }
    }
}

impl<const N: usize> Fields<N> {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice is N long")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let exit = Exit::Signal { number: 6, core: true };
        for kind in [
            EventKind::Started,
            EventKind::Exited { exit, uptime_ms: 12 },
            EventKind::Backoff { retry_at_boot_ms: 3 },
            EventKind::Quarantined { retry_at_boot_ms: 4 },
            EventKind::Stopping,
            EventKind::Stopped,
            EventKind::Adopted,
            EventKind::Stragglers { count: 2 },
            EventKind::LogDropped { bytes: 1 << 40 },
            EventKind::Unkillable { count: 1 },
        ] {
            let event = Event { seq: 1, real_ns: 2, boot_ms: 3, incarnation: 4, pid: 5, kind };
            assert_eq!(Event::decode(&event.encode()), Some(event));
        }
        let reaped = ReapRecord { pid: 1, wait_status: 0x2a00, pidfd_inode: 3, start_ticks: 4, real_ns: 5 };
        assert_eq!(ReapRecord::decode(&reaped.encode()), reaped);
    }
}
