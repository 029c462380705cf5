//! Where a component serves its metrics.

use hyper::Uri;

/// Where a component serves its metrics.
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
        if uri.scheme_str() != Some("http") || authority.as_str().contains('@') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
        Some(Self {
            address: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            host: authority.to_string(),
            path: path.to_owned(),
        })
    }

    /// The usual place on this host.
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
