//! Exit codes of agentd and agentctl, fixed and documented (README). One table for both programs.

use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The act was tried and failed; the message says what to do.
    Failed,
    /// The command line is wrong (as clap has it).
    Usage,
    /// The desired state does not validate.
    Invalid,
    /// The agent cannot be reached; in `agentd join`, the control server.
    Unreachable,
    /// No such service, release or key.
    NotFound,
    /// The stack is degraded or a service is not as wanted (`status`).
    Degraded,
    /// Another agentd runs on this home.
    Locked,
    /// The home cannot be used: not writable, database unreadable or from a newer version.
    Home,
    /// A port or address is taken; the message names its owner.
    PortTaken,
    /// The agent of the machine was shut down on request: its unit does not start it again.
    ShutDown,
    /// The control server did not take the host in: token or host refused, or another server than the join string names.
    NotAccepted,
    /// The host has a stack already, or joined a control server before: `agentd leave` first.
    HasStack,
    /// Nobody has said yes yet: `agentd join` again waits on.
    Pending,
}

impl Exit {
    pub const ALL: [Self; 14] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Invalid,
        Self::Unreachable,
        Self::NotFound,
        Self::Degraded,
        Self::Locked,
        Self::Home,
        Self::PortTaken,
        Self::ShutDown,
        Self::NotAccepted,
        Self::HasStack,
        Self::Pending,
    ];

    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Unreachable => 4,
            Self::NotFound => 5,
            Self::Degraded => 6,
            Self::Locked => 7,
            Self::Home => 8,
            Self::PortTaken => 9,
            Self::ShutDown => 10,
            Self::NotAccepted => 11,
            Self::HasStack => 12,
            Self::Pending => 13,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
