//! TLS of the listener: certificate and key from PEM files, and what happens before HTTP begins.
//!
//! The rule: files are taken together and checked, or not at all. A listener that was told to speak
//! TLS never speaks plain HTTP, but for the one answer that says so.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::io::{Guarded, Heard};
use super::server::ServerOptions;

/// What is offered, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why files of certificates or keys are not taken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not a PEM file, or cut short.
    #[error("`{}` is not PEM: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Without its text, which may be a key.
        why: &'static str,
    },
    /// It has no certificate.
    #[error("`{}` holds no certificate: `-----BEGIN CERTIFICATE-----` is not in it", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// It has no key.
    #[error(
        "`{}` holds no private key that can be used: `-----BEGIN PRIVATE KEY-----`, or `RSA` or \
         `EC PRIVATE KEY`, without a passphrase",
        path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate makes no sense.
    #[error("a certificate in `{}` cannot be used: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        why: rustls::Error,
    },
    /// The key makes no sense.
    #[error("the private key in `{}` cannot be used: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        why: rustls::Error,
    },
    /// They do not belong together.
    #[error(
        "the private key in `{}` is not that of the first certificate in `{}`",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The file of certificates.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// Who the listener is: certificates and key. Read from their files at once, and again when told.
pub struct Identity {
    cert: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert", &self.cert).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the certificate chain, the listener's own first, and its private key.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let config = ArcSwap::from_pointee(server_config(cert, key)?);
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), config })
    }

    /// Reads both files again, for connections from now on. Blocks on the disk.
    ///
    /// # Errors
    /// [`TlsError`]; what was there stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config.store(Arc::new(server_config(&self.cert, &self.key)?));
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

/// Certificates of a PEM file, at least one; each can be trusted as an authority.
///
/// # Errors
/// [`TlsError`].
pub fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|why| TlsError::Certificate { path: path.to_owned(), why })?;
    }
    Ok(certificates)
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let certificates = read_certificates(cert)?;
    let private = read_key(key)?;
    let unusable = |why| TlsError::Key { path: key.to_owned(), why };
    let built = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, private);
    let mut config = built.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
        }
        why @ rustls::Error::InvalidCertificate(_) => {
            TlsError::Certificate { path: cert.to_owned(), why }
        }
        why => unusable(why),
    })?;
    config.alpn_protocols = PROTOCOLS.map(Vec::from).to_vec();
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| syntax(path, &error))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.to_owned() },
        error => syntax(path, &error),
    })
}

fn syntax(path: &Path, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a `-----BEGIN` has no `-----END`",
        pem::Error::Base64Decode(_) => "what stands between the dashes is not base64",
        _ => "it is malformed",
    };
    TlsError::Syntax { path: path.to_owned(), why }
}

/// How a client begins on a port that speaks TLS.
pub(super) enum Greeted {
    /// As it should.
    Tls(Box<TlsStream<Guarded>>),
    /// In plain HTTP. It gets told.
    Plain(Guarded),
}

/// Waits for the beginning of a connection and shakes hands. None: the client did not, in time or
/// at all. Cancel safe in that the connection is closed.
pub(super) async fn greet(
    stream: TcpStream,
    heard: Heard,
    identity: &Identity,
    options: &ServerOptions,
) -> Option<Greeted> {
    let greeting = async {
        let mut first = [0];
        let seen = stream.peek(&mut first).await?;
        let guarded = Guarded::new(stream, options.write_stall_max, heard);
        // The method of a request; a handshake begins with 22.
        if seen > 0 && first.iter().all(u8::is_ascii_uppercase) {
            return Ok(Greeted::Plain(guarded));
        }
        identity.acceptor().accept(guarded).await.map(|stream| Greeted::Tls(Box::new(stream)))
    };
    match tokio::time::timeout(options.handshake_timeout, greeting).await {
        Ok(Ok(greeted)) => Some(greeted),
        Ok(Err::<_, io::Error>(error)) => {
            tracing::debug!("no handshake: {error}");
            None
        }
        Err(_) => {
            tracing::debug!("no handshake within {:?}", options.handshake_timeout);
            None
        }
    }
}
