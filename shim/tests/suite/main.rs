//! The shim's promises, across process boundaries: a real shim, real programs, and a harness that plays the manager
//! on `ctl.sock` and, as subreaper, the keeper. No root needed; every wait has a cap.

mod adopt;
mod control;
mod harness;
mod hosts;
mod life;
mod logs;
mod stop;
mod tmp;
