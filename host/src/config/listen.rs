//! The address to listen on, as people write it.

use std::net::SocketAddr;
use std::str::FromStr;

/// An address and port; `localhost` is the IPv4 loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// The text is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an IP address and port such as \"127.0.0.1:7411\" or \"[::1]:7411\"")]
pub struct InvalidListen;

impl FromStr for ListenAddress {
    type Err = InvalidListen;
    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        if let Some(port) = text.strip_prefix("localhost:") {
            let port: u16 = port.parse().map_err(|_| InvalidListen)?;
            return Ok(Self(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        text.parse().map(Self).map_err(|_| InvalidListen)
    }
}
