//! Serves the store at which ranks meet.

use std::net::TcpListener;
use std::time::Duration;

use marquee_domain::FailureClass;

use crate::error::RunError;
use crate::ffi::Store;

/// A request to the store's own client; the server waits for nobody.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// A store for ranks to meet at, served from a thread until dropped.
#[derive(Debug)]
pub(crate) struct StoreServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    _store: Store,
}

impl StoreServer {
    /// Serves on `host`, and on no other address: the store knows no passwords. Port 0 takes any.
    ///
    /// # Errors
    /// [`RunError`] when the address is not of this host, or the port is taken.
    pub(crate) fn start(host: &str, port: u16) -> Result<Self, RunError> {
        let failed = |error: &dyn std::fmt::Display| {
            RunError::new(
                FailureClass::Collective,
                format!("cannot serve a rendezvous store at {host}:{port}: {error}"),
            )
        };
        let listener = TcpListener::bind((host, port)).map_err(|error| failed(&error))?;
        let port = listener
            .local_addr()
            .map_err(|error| failed(&error))?
            .port();
        let store = Store::serve(listener, SERVER_TIMEOUT).map_err(|error| failed(&error))?;
        Ok(Self {
            host: host.to_owned(),
            port,
            _store: store,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_serves_those_who_connect_and_keeps_prefixes_apart() {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let connect = || Store::connect(&server.host, server.port, Duration::from_secs(5)).unwrap();
        let (old, new) = (
            connect().prefixed("job/1/attempt/1").unwrap(),
            connect().prefixed("job/1/attempt/2").unwrap(),
        );
        old.set("arrived/0", b"1").unwrap();
        assert!(old.has("arrived/0").unwrap());
        assert!(!new.has("arrived/0").unwrap());
    }

    #[test]
    fn a_store_is_reached_at_its_own_address_alone() {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let reaches = |host: &str| {
            let address = format!("{host}:{}", server.port).parse().unwrap();
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
        };
        assert!(reaches("127.0.0.1"));
        // Another address of this very host.
        assert!(!reaches("127.0.0.2"));
    }
}
