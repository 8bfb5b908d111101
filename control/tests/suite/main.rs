//! The server from outside: its command line, and hosts that speak the protocol.

mod aftermath;
mod bounds;
mod commits;
mod faults;
mod foreign;
mod hostile;
mod html;
mod life;
mod numbers;
mod pages;
mod server;
mod streams;
mod tls;
mod visitor;
