//! Where HTTP is served: a component's metrics, another observer.

use std::net::Ipv6Addr;

use hyper::Uri;

/// Where something is served over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port, as `connect()` takes them.
    pub(crate) address: String,
    /// As in the `Host` header.
    pub(crate) host: String,
    pub(crate) path: String,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT][/PATH]`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let host = uri.host().filter(|host| !host.is_empty())?;
        let authority = uri.authority()?;
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let port = match authority.as_str().strip_prefix(host)? {
            "" => 80,
            port => port.strip_prefix(':')?.parse().ok().filter(|port: &u16| *port != 0)?,
        };
        if let Some(v6) = host.strip_prefix('[') {
            v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
        }
        let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
        Some(Self {
            address: format!("{host}:{port}"),
            host: authority.to_string(),
            path: path.to_owned(),
        })
    }

    /// Another path of the same server.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// The usual place of a component's metrics on this host.
    #[must_use]
    pub fn local(port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        Self { host: address.clone(), address, path: "/metrics".to_owned() }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}
