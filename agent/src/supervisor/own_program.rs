//! Our own program as that of an instance: started by descriptor, so that a restart runs the very same program though
//! the file was replaced, and no folder above it need be open to the instance's user.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::Error;

const NAME: &str = "listen.program";
/// First descriptor a program receives (sd_listen_fds(3)).
const FDS_START: usize = 3;

/// To be held by the instance; stands behind `before` other `listen.` descriptors. The second part is what to execute.
pub fn own_program(before: usize) -> Result<((String, OwnedFd), String), Error> {
    let opened = |source: io::Error| Error::OwnProgram(source);
    let file = File::open("/proc/self/exe").map_err(opened)?;
    Ok(((NAME.to_owned(), file.into()), format!("/proc/self/fd/{}", FDS_START + before)))
}
