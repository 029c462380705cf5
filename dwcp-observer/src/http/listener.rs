//! The listening socket.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait for `accept`; a burst of hostile ones must not push a scrape out.
const BACKLOG: i32 = 1024;

/// The address cannot be listened on; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error(
        "port {} is already in use on {}: choose another port with --listen {}:PORT, \
         or stop the process that uses it (ss -ltnp 'sport = :{}' shows it)",
        .0.port(), .0.ip(), host(.0), .0.port()
    )]
    InUse(SocketAddr),
    /// A port below 1024 without `CAP_NET_BIND_SERVICE`.
    #[error(
        "no permission to listen on port {}: ports below 1024 need root or CAP_NET_BIND_SERVICE; \
         choose a higher one with --listen {}:PORT", .0.port(), host(.0)
    )]
    Permission(SocketAddr),
    /// The address is none of this host's.
    #[error(
        "this host does not have the address {} (ip -br address lists its addresses): \
         --listen 0.0.0.0:{} or [::]:{} listens on all", .0.ip(), .0.port(), .0.port()
    )]
    NotOurs(SocketAddr),
    /// The kernel has no IPv6.
    #[error("this host has no IPv6: use --listen 0.0.0.0:{}", .0.port())]
    NoIpv6(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn host(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

impl BindError {
    /// The cause alone, where the usual advice does not fit.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::InUse(_) => "the port is already in use".to_owned(),
            Self::Permission(_) => "no permission to listen there".to_owned(),
            Self::NotOurs(address) => {
                format!("this host does not have the address {}", address.ip())
            }
            Self::NoIpv6(_) => "this host has no IPv6".to_owned(),
            Self::Other { source, .. } => source.to_string(),
        }
    }

    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::PermissionDenied => Self::Permission(address),
            io::ErrorKind::AddrNotAvailable => Self::NotOurs(address),
            _ if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::NoIpv6(address),
            _ => Self::Other { address, source },
        }
    }
}

/// Listens on `addr`; port 0 takes any free one. `[::]` takes IPv4 as well.
///
/// # Errors
/// When the port is taken, not allowed, or the address is not this host's.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    listen(addr).map_err(|source| BindError::new(addr, source))
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the TIME_WAIT of old connections.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn port_in_use_names_the_port_and_the_flag() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert!(matches!(error, BindError::InUse(_)));
        let text = error.to_string();
        assert!(text.contains(&format!("port {}", address.port())), "{text}");
        assert!(text.contains("--listen 127.0.0.1:PORT"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn foreign_address_is_named() {
        // 192.0.2.0/24 is reserved for documentation (RFC 5737).
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NotOurs(_)), "{error}");
        assert!(error.to_string().contains("192.0.2.1"));
    }

    #[test]
    fn any_v6_takes_v4_too() {
        let listener = match bind("[::]:0".parse().unwrap()) {
            Ok(listener) => listener,
            // Without IPv6 in the kernel the error must say so, and there is no more to test.
            Err(error) => {
                assert!(matches!(error, BindError::NoIpv6(_)), "{error}");
                assert!(!std::path::Path::new("/proc/net/if_inet6").exists());
                return;
            }
        };
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn errors_are_sorted_by_cause() {
        let address = "127.0.0.1:80".parse().unwrap();
        let error = |kind: i32| BindError::new(address, io::Error::from_raw_os_error(kind));
        assert!(matches!(error(libc::EACCES), BindError::Permission(_)));
        assert!(error(libc::EACCES).to_string().contains("port 80"));
        assert!(matches!(error(libc::EAFNOSUPPORT), BindError::NoIpv6(_)));
        assert!(matches!(error(libc::ENOBUFS), BindError::Other { .. }));
    }
}
