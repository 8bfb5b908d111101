//! The server from outside: its command line, and hosts that speak the protocol.

mod bounds;
mod commits;
mod faults;
mod life;
mod server;
mod tls;
