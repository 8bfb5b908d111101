//! What a host believes: each rule by itself, then all of them against a store that an attacker owns.

mod model;
mod publisher;
mod rules;
