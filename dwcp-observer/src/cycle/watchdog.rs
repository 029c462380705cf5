//! Tells the service manager after each cycle that the observer is alive (`sd_notify(3)`): one that hangs is started anew.

use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Where signs of life go; nowhere without a service manager that asks for them.
#[derive(Debug)]
pub(super) struct Watchdog {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Watchdog {
    /// As the environment says: a manager that does not watch sets no `WATCHDOG_USEC`.
    pub(super) fn from_environment() -> Self {
        let watches = std::env::var_os("WATCHDOG_USEC").is_some();
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|_| watches);
        let socket = path.and_then(|path| {
            open(&path).inspect_err(|error| log::warn!("cannot start the watchdog: {error}")).ok()
        });
        Self { socket }
    }

    /// A sign of life; a manager that is busy is not waited for.
    pub(super) fn alive(&self) {
        if let Some((socket, manager)) = &self.socket
            && let Err(error) = socket.send_to_addr(b"WATCHDOG=1", manager)
        {
            log::debug!("cannot notify the service manager: {error}");
        }
    }
}

fn open(path: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let manager = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    Ok((socket, manager))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_of_each_cycle_by_path_and_by_abstract_name() {
        let name = format!("dwcp-watchdog-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (at, listener) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&abstract_name).unwrap()),
        ] {
            Watchdog { socket: Some(open(&at).unwrap()) }.alive();
            let mut heard = [0; 32];
            let length = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"WATCHDOG=1");
        }
        std::fs::remove_file(path).unwrap();
        Watchdog { socket: None }.alive();
    }
}
