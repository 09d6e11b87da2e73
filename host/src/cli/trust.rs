//! Which hosts client commands believe over TLS, and what went wrong where they do not.

use std::path::Path;

use tokio_rustls::rustls::{self, CertificateError, InvalidMessage};
use ureq::tls::{Certificate, TlsConfig};

use crate::api::tls::read_authorities;

/// Why there is no connection over TLS.
pub(super) enum Handshake {
    /// The certificate is not believed.
    Untrusted(Box<CertificateError>),
    /// Nobody speaks TLS there.
    NoTls,
}

/// Trust in the authorities of a PEM file alone.
pub(super) fn only(path: &Path) -> anyhow::Result<TlsConfig> {
    let found = read_authorities(path)?;
    let roots = found.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(TlsConfig::builder().root_certs(roots.into()).build())
}

/// A failed handshake is an error of its connection, which wraps what TLS has to say.
pub(super) fn handshake_failure(error: &ureq::Error) -> Option<Handshake> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref()?,
        _ => return None,
    };
    match error {
        rustls::Error::InvalidCertificate(why) => Some(Handshake::Untrusted(Box::new(why.clone()))),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(Handshake::NoTls),
        _ => None,
    }
}

/// Why a certificate is not believed, and what to do about it.
pub(super) fn reason(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "no known authority has signed its certificate; name a PEM file of the one that has \
             with --ca-cert or TIDEGATE_CA_CERT"
                .to_owned()
        }
        // Reasons without a name of their own: mostly that of a certificate that calls itself an
        // authority, as `openssl req -x509` makes them unless told otherwise.
        CertificateError::Other(why) => format!(
            "its certificate cannot be used ({why}); one of an authority (CA:TRUE) is not one of \
             a host"
        ),
        why => why.to_string(),
    }
}
