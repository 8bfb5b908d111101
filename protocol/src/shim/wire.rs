//! Messages between manager, keeper and shim: one SEQPACKET datagram is one message.
//!
//! Header, 16 bytes little endian: `{ magic u16, version u8, kind u8, body_len u16, flags u16, seq u32, re u32 }`, then
//! TLV items. `seq` numbers a sender's messages, `re` names the one that is answered. The header and the kinds Hello,
//! Welcome, Stop, Kill and Leave never change, so that any future manager can stop any old shim. Unknown items are
//! skipped, unknown kinds are answered with `Refused { Unsupported }`. Both sockets check SO_PEERCRED: root or the
//! owner of the directory.

use super::event::{EVENT_BYTES, Event};
use super::state::State;
use super::tlv::{Malformed, Reader, Writer};

pub const MAGIC: u16 = 0xA6E7;
pub const VERSION_MIN: u8 = 1;
pub const VERSION_MAX: u8 = 1;
pub const HEADER_BYTES: usize = 16;
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// A message and its place in the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub seq: u32,
    /// The `seq` of the message this one answers, 0 for none.
    pub re: u32,
    pub message: Message,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First on every connection to a shim. The shim takes the highest common version, or refuses with its own range.
    /// Then come `Welcome` and every event after `events_after`.
    Hello {
        version_min: u8,
        version_max: u8,
        epoch: u64,
        events_after: u64,
    },
    /// The whole truth: a manager needs nothing else to adopt. `held` names the descriptors it keeps.
    Welcome {
        version: u8,
        shim_pid: u32,
        shim_build: String,
        state: State,
        held: Vec<String>,
    },
    Event(Event),
    /// The manager has stored every event up to `seq`: the shim may forget them.
    Ack {
        event_seq: u64,
    },
    /// From Down, Backoff or Quarantined; clears the count of unstable exits. Done at once in other phases.
    Start,
    /// To Down. `timeout_ms` overrides the spec's. Answered Done when accepted; `Stopped` follows as an event.
    Stop {
        timeout_ms: Option<u64>,
    },
    Restart,
    /// SIGKILL the whole tree now, then Down.
    Kill,
    /// The readiness gate passed for this incarnation.
    MarkReady {
        incarnation: u32,
    },
    /// The shim ends. Only in Down, else Refused { Busy }.
    Leave,
    /// Asks a shim, or the keeper about one instance, for duplicates of the held descriptors.
    AskHeld {
        instance: Option<String>,
    },
    /// Carries them by SCM_RIGHTS in the order of `names`.
    Held {
        names: Vec<String>,
    },
    Done,
    Refused {
        reason: Refusal,
        text: String,
    },

    // To and from the keeper.
    /// Start (or start again) the shim of an instance directory; descriptors by SCM_RIGHTS in the order of `names`.
    /// Done also when that shim already runs. Only the instance id travels; the keeper knows the run folder.
    Spawn {
        instance: String,
        names: Vec<String>,
    },
    /// Answered by Instances.
    List,
    Instances {
        shims: Vec<(String, u32)>,
    },
    /// Drop what the keeper holds for an instance whose shim has left.
    Forget {
        instance: String,
    },
    /// The keeper ends; Refused { Busy } while a shim lives.
    Shutdown,
    /// A shim asks before every start; the keeper answers with how long to wait.
    AskStart {
        instance: String,
    },
    GrantStart {
        wait_ms: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown kind, or no common version.
    Unsupported,
    /// A manager of a higher epoch has spoken.
    OldEpoch,
    /// Not in this phase.
    Busy,
    /// No such instance.
    Unknown,
    /// The attempt failed; the text says how.
    Failed,
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const EVENT: u8 = 3;
const ACK: u8 = 4;
const START: u8 = 5;
const STOP: u8 = 6;
const RESTART: u8 = 7;
const KILL: u8 = 8;
const MARK_READY: u8 = 9;
const LEAVE: u8 = 10;
const ASK_HELD: u8 = 11;
const HELD: u8 = 12;
const DONE: u8 = 13;
const REFUSED: u8 = 14;
const SPAWN: u8 = 32;
const LIST: u8 = 33;
const INSTANCES: u8 = 34;
const FORGET: u8 = 35;
const SHUTDOWN: u8 = 36;
const ASK_START: u8 = 37;
const GRANT_START: u8 = 38;

const T_VERSION_MIN: u16 = 1;
const T_VERSION_MAX: u16 = 2;
const T_EPOCH: u16 = 3;
const T_EVENT_SEQ: u16 = 4;
const T_PID: u16 = 5;
const T_BUILD: u16 = 6;
const T_STATE: u16 = 7;
const T_NAME: u16 = 8;
const T_EVENT: u16 = 9;
const T_TIMEOUT_MS: u16 = 10;
const T_INCARNATION: u16 = 11;
const T_INSTANCE: u16 = 12;
const T_REFUSAL: u16 = 13;
const T_TEXT: u16 = 14;
const T_WAIT_MS: u16 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// Not one of our messages at all.
    Foreign,
    /// Over MESSAGE_BYTES_MAX or a body length that does not match.
    Length,
    /// Ours, of a kind or version this program does not know; `seq` to answer it with Refused { Unsupported }.
    Unsupported {
        seq: u32,
    },
    Body(Malformed),
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => write!(f, "not a message of this protocol"),
            Self::Length => write!(f, "message length does not match its header"),
            Self::Unsupported { .. } => write!(f, "message kind or version not supported"),
            Self::Body(cause) => write!(f, "message body: {cause}"),
        }
    }
}

impl std::error::Error for WireError {}

impl From<Malformed> for WireError {
    fn from(cause: Malformed) -> Self {
        Self::Body(cause)
    }
}

impl Refusal {
    const ALL: [Self; 5] = [Self::Unsupported, Self::OldEpoch, Self::Busy, Self::Unknown, Self::Failed];

    fn code(self) -> u8 {
        match self {
            Self::Unsupported => 1,
            Self::OldEpoch => 2,
            Self::Busy => 3,
            Self::Unknown => 4,
            Self::Failed => 5,
        }
    }
}

impl Envelope {
    /// # Panics
    /// When the message is over MESSAGE_BYTES_MAX: names are at most HELD_FDS_MAX, texts are cut by their makers, and
    /// the keeper sends instances in as many messages as it takes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = self.message.body();
        let len = u16::try_from(body.len()).expect("bodies are below 16 KiB");
        assert!(HEADER_BYTES + body.len() <= MESSAGE_BYTES_MAX, "message over its limit");
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[VERSION_MAX, kind]);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.re.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(WireError::Foreign);
        };
        if u16::from_le_bytes([head[0], head[1]]) != MAGIC {
            return Err(WireError::Foreign);
        }
        if usize::from(u16::from_le_bytes([head[4], head[5]])) != body.len() {
            return Err(WireError::Length);
        }
        let seq = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let re = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        let message = Message::decode(head[3], body)?.ok_or(WireError::Unsupported { seq })?;
        Ok(Self { seq, re, message })
    }
}

impl Message {
    fn body(&self) -> (u8, Vec<u8>) {
        let mut out = Writer::new();
        let kind = match self {
            Self::Hello { version_min, version_max, epoch, events_after } => {
                out.u8(T_VERSION_MIN, *version_min).u8(T_VERSION_MAX, *version_max);
                out.u64(T_EPOCH, *epoch).u64(T_EVENT_SEQ, *events_after);
                HELLO
            }
            Self::Welcome { version, shim_pid, shim_build, state, held } => {
                out.u8(T_VERSION_MAX, *version).u32(T_PID, *shim_pid).text(T_BUILD, shim_build);
                out.bytes(T_STATE, &state.encode());
                put_names(&mut out, held);
                WELCOME
            }
            Self::Event(event) => {
                out.bytes(T_EVENT, &event.encode());
                EVENT
            }
            Self::Ack { event_seq } => {
                out.u64(T_EVENT_SEQ, *event_seq);
                ACK
            }
            Self::Start => START,
            Self::Stop { timeout_ms } => {
                if let Some(timeout_ms) = timeout_ms {
                    out.u64(T_TIMEOUT_MS, *timeout_ms);
                }
                STOP
            }
            Self::Restart => RESTART,
            Self::Kill => KILL,
            Self::MarkReady { incarnation } => {
                out.u32(T_INCARNATION, *incarnation);
                MARK_READY
            }
            Self::Leave => LEAVE,
            Self::AskHeld { instance } => {
                if let Some(instance) = instance {
                    out.text(T_INSTANCE, instance);
                }
                ASK_HELD
            }
            Self::Held { names } => {
                put_names(&mut out, names);
                HELD
            }
            Self::Done => DONE,
            Self::Refused { reason, text } => {
                out.u8(T_REFUSAL, reason.code()).text(T_TEXT, text);
                REFUSED
            }
            Self::Spawn { instance, names } => {
                out.text(T_INSTANCE, instance);
                put_names(&mut out, names);
                SPAWN
            }
            Self::List => LIST,
            Self::Instances { shims } => {
                for (instance, pid) in shims {
                    out.text(T_INSTANCE, instance).u32(T_PID, *pid);
                }
                INSTANCES
            }
            Self::Forget { instance } => {
                out.text(T_INSTANCE, instance);
                FORGET
            }
            Self::Shutdown => SHUTDOWN,
            Self::AskStart { instance } => {
                out.text(T_INSTANCE, instance);
                ASK_START
            }
            Self::GrantStart { wait_ms } => {
                out.u32(T_WAIT_MS, *wait_ms);
                GRANT_START
            }
        };
        (kind, out.finish())
    }

    /// `Ok(None)`: a kind this version does not know.
    fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, WireError> {
        let items = Items::read(body)?;
        let message = match kind {
            HELLO => Self::Hello {
                version_min: required(items.version_min, T_VERSION_MIN)?,
                version_max: required(items.version_max, T_VERSION_MAX)?,
                epoch: required(items.epoch, T_EPOCH)?,
                events_after: required(items.event_seq, T_EVENT_SEQ)?,
            },
            WELCOME => Self::Welcome {
                version: required(items.version_max, T_VERSION_MAX)?,
                shim_pid: items.pids.first().copied().ok_or(Malformed::Missing { tag: T_PID })?,
                shim_build: required(items.build, T_BUILD)?,
                state: required(items.state, T_STATE)?,
                held: items.names,
            },
            EVENT => match items.event {
                Some(event) => Self::Event(event),
                None => return Ok(None),
            },
            ACK => Self::Ack { event_seq: required(items.event_seq, T_EVENT_SEQ)? },
            START => Self::Start,
            STOP => Self::Stop { timeout_ms: items.timeout_ms },
            RESTART => Self::Restart,
            KILL => Self::Kill,
            MARK_READY => Self::MarkReady { incarnation: required(items.incarnation, T_INCARNATION)? },
            LEAVE => Self::Leave,
            ASK_HELD => Self::AskHeld { instance: items.instances.into_iter().next() },
            HELD => Self::Held { names: items.names },
            DONE => Self::Done,
            REFUSED => {
                Self::Refused { reason: required(items.refusal, T_REFUSAL)?, text: items.text.unwrap_or_default() }
            }
            SPAWN => Self::Spawn { instance: items.instance()?, names: items.names },
            LIST => Self::List,
            INSTANCES => Self::Instances { shims: items.instances.into_iter().zip(items.pids).collect() },
            FORGET => Self::Forget { instance: items.instance()? },
            SHUTDOWN => Self::Shutdown,
            ASK_START => Self::AskStart { instance: items.instance()? },
            GRANT_START => Self::GrantStart { wait_ms: required(items.wait_ms, T_WAIT_MS)? },
            _ => return Ok(None),
        };
        Ok(Some(message))
    }
}

fn put_names(out: &mut Writer, names: &[String]) {
    for name in names {
        out.text(T_NAME, name);
    }
}

fn required<T>(item: Option<T>, tag: u16) -> Result<T, Malformed> {
    item.ok_or(Malformed::Missing { tag })
}

/// Every item any message may carry; which are required is each message's own rule.
#[derive(Default)]
struct Items {
    version_min: Option<u8>,
    version_max: Option<u8>,
    epoch: Option<u64>,
    event_seq: Option<u64>,
    pids: Vec<u32>,
    build: Option<String>,
    state: Option<State>,
    names: Vec<String>,
    event: Option<Event>,
    timeout_ms: Option<u64>,
    incarnation: Option<u32>,
    instances: Vec<String>,
    refusal: Option<Refusal>,
    text: Option<String>,
    wait_ms: Option<u32>,
}

impl Items {
    fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut items = Self::default();
        for item in Reader::new(body) {
            let item = item?;
            match item.tag {
                T_VERSION_MIN => items.version_min = Some(item.u8()?),
                T_VERSION_MAX => items.version_max = Some(item.u8()?),
                T_EPOCH => items.epoch = Some(item.u64()?),
                T_EVENT_SEQ => items.event_seq = Some(item.u64()?),
                T_PID => items.pids.push(item.u32()?),
                T_BUILD => items.build = Some(item.text()?.to_owned()),
                T_STATE => items.state = Some(State::decode(item.bytes)?),
                T_NAME => items.names.push(item.text()?.to_owned()),
                T_EVENT => {
                    let record: &[u8; EVENT_BYTES] =
                        item.bytes.try_into().map_err(|_| Malformed::Length { tag: T_EVENT })?;
                    items.event = Event::decode(record);
                }
                T_TIMEOUT_MS => items.timeout_ms = Some(item.u64()?),
                T_INCARNATION => items.incarnation = Some(item.u32()?),
                T_INSTANCE => items.instances.push(item.text()?.to_owned()),
                T_REFUSAL => {
                    let code = item.u8()?;
                    let known = Refusal::ALL.into_iter().find(|reason| reason.code() == code);
                    items.refusal = Some(known.unwrap_or(Refusal::Failed));
                }
                T_TEXT => items.text = Some(item.text()?.to_owned()),
                T_WAIT_MS => items.wait_ms = Some(item.u32()?),
                _ => {}
            }
        }
        Ok(items)
    }

    fn instance(&self) -> Result<String, Malformed> {
        self.instances.first().cloned().ok_or(Malformed::Missing { tag: T_INSTANCE })
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::EventKind;
    use super::*;

    #[test]
    fn every_message_round_trips() {
        let event = Event { seq: 3, real_ns: 1, boot_ms: 2, incarnation: 1, pid: 9, kind: EventKind::Started };
        let names = vec!["listen.external".to_owned(), "reserve.port".to_owned()];
        let instance = "abcdef012345".to_owned();
        let messages = [
            Message::Hello { version_min: 1, version_max: 1, epoch: 4, events_after: 2 },
            Message::Welcome {
                version: 1,
                shim_pid: 4,
                shim_build: "x".into(),
                state: State::fresh(),
                held: names.clone(),
            },
            Message::Event(event),
            Message::Ack { event_seq: 3 },
            Message::Start,
            Message::Stop { timeout_ms: None },
            Message::Stop { timeout_ms: Some(5) },
            Message::Restart,
            Message::Kill,
            Message::MarkReady { incarnation: 2 },
            Message::Leave,
            Message::AskHeld { instance: None },
            Message::AskHeld { instance: Some(instance.clone()) },
            Message::Held { names: names.clone() },
            Message::Done,
            Message::Refused { reason: Refusal::Busy, text: "running".into() },
            Message::Spawn { instance: instance.clone(), names },
            Message::List,
            Message::Instances { shims: vec![(instance.clone(), 7), ("0".repeat(12), 8)] },
            Message::Forget { instance: instance.clone() },
            Message::Shutdown,
            Message::AskStart { instance },
            Message::GrantStart { wait_ms: 50 },
        ];
        for (seq, message) in (1..).zip(messages) {
            let envelope = Envelope { seq, re: 1, message };
            assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
        }
    }

    #[test]
    fn strangers_and_newcomers_are_told_apart() {
        assert_eq!(Envelope::decode(b"GET / HTTP/1.1\r\n\r\n"), Err(WireError::Foreign));
        let mut unknown = Envelope { seq: 8, re: 0, message: Message::Start }.encode();
        unknown[3] = 250;
        assert_eq!(Envelope::decode(&unknown), Err(WireError::Unsupported { seq: 8 }));
    }
}
