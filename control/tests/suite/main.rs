//! The server from outside: its command line, and hosts that speak the protocol.

mod faults;
mod life;
mod server;
