//! A connection whose data are taken by receive calls, or by splice(2) alone.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::Result;

/// A connection, and a pipe if its data go through one.
#[derive(Debug)]
pub(super) struct Source {
    socket: TcpStream,
    pipe: Option<(PipeReader, PipeWriter)>,
}

impl Source {
    pub(super) fn new(socket: TcpStream, splice: bool) -> Result<Self> {
        let pipe = if splice { Some(io::pipe()?) } else { None };
        Ok(Self { socket, pipe })
    }

    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((output, input)) = &mut self.pipe else { return self.socket.read(buffer) };
        let (from, to) = (self.socket.as_raw_fd(), input.as_raw_fd());
        let none = std::ptr::null_mut();
        // SAFETY: both descriptors are open, and there are no offsets to read or write.
        let moved = unsafe { libc::splice(from, none, to, none, buffer.len(), 0) };
        let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
        // All of it is in the pipe, which holds at least that much.
        output.read_exact(&mut buffer[..moved])?;
        Ok(moved)
    }
}
