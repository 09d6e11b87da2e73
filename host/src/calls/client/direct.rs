//! The same for a direct request: its headers may be any bytes, and its answer is whole or none.

use std::io::Read;

use bytes::Bytes;
use ureq::Body;
use ureq::http::header::{HeaderName, HeaderValue};
use ureq::http::{Request, Response};

use super::{Client, Failure, Refused, Waits, failure, in_reading};
use crate::calls::policy::Fault;
use crate::config::Secrets;
use crate::config::secrets::Secret;
use crate::wasm::{DirectAnswer, DirectFault, DirectRequest, Unanswered};

impl Client {
    /// Sends a direct request and reads the answer, which is too large or whole.
    pub(in crate::calls) fn ask(
        &self,
        request: &DirectRequest,
        waits: Waits,
        secrets: &Secrets,
    ) -> Result<DirectAnswer, Unanswered> {
        let mut used = Vec::new();
        let sent = self.direct(request, secrets, &mut used).map_err(Unanswered::from)?;
        let response = self.run(sent, waits).map_err(|error| unanswered(&error))?;
        let answer = read_whole(response, request.answer_bytes_max)?;
        Ok(strike_direct(answer, &used))
    }

    /// Values that are not text have no secrets in them.
    fn direct(
        &self,
        direct: &DirectRequest,
        secrets: &Secrets,
        used: &mut Vec<Secret>,
    ) -> Result<Request<Vec<u8>>, Failure> {
        let invalid = |why: &dyn std::fmt::Display| Failure::new(Fault::Invalid, why);
        let mut request = self.bare(&direct.method, &direct.url, &direct.body)?;
        let headers = request.headers_mut();
        for (name, value) in &direct.headers {
            let name: HeaderName = name.parse().map_err(|_| invalid(&"a header's name"))?;
            let value = match std::str::from_utf8(value) {
                Ok(text) if text.is_ascii() => self.fill(&name, text, secrets, used)?,
                _ => HeaderValue::from_bytes(value)
                    .map_err(|_| invalid(&format!("the value of header `{name}`")))?,
            };
            headers.append(name, value);
        }
        Ok(request)
    }
}

fn read_whole(mut response: Response<Body>, bytes_max: usize) -> Result<DirectAnswer, Unanswered> {
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let read = response.body_mut().as_reader().take(most).read_to_end(&mut body);
    read.map_err(|error| unanswered(&in_reading(error)))?;
    if body.len() > bytes_max {
        let why = format!("the answer has more than {bytes_max} bytes");
        return Err(Unanswered { fault: DirectFault::TooLarge, why });
    }
    Ok(DirectAnswer { status, headers, body: body.into() })
}

/// Takes out what a server repeats of secrets: the guest is not to know them.
fn strike_direct(answer: DirectAnswer, used: &[Secret]) -> DirectAnswer {
    used.iter().fold(answer, |answer, secret| {
        let struck = |bytes: Bytes| Bytes::from(secret.struck_from(bytes.into()));
        let bytes_before = answer.body.len();
        let body = struck(answer.body);
        let headers = answer.headers.into_iter().map(|(name, value)| (name, struck(value)));
        // A length that is not right any more is worse than none.
        let is_kept = |name: &str| name != "content-length" || body.len() == bytes_before;
        let headers = headers.filter(|(name, _)| is_kept(name)).collect();
        DirectAnswer { status: answer.status, headers, body }
    })
}

fn unanswered(error: &ureq::Error) -> Unanswered {
    match error {
        ureq::Error::Other(other) if other.is::<Refused>() => {
            Unanswered { fault: DirectFault::Address, why: error.to_string() }
        }
        error => failure(error).into(),
    }
}

impl From<Failure> for Unanswered {
    fn from(Failure { fault, why }: Failure) -> Self {
        let fault = match fault {
            Fault::Denied | Fault::Secret => DirectFault::Denied,
            Fault::Dns => DirectFault::Dns,
            Fault::Connect => DirectFault::Connect,
            Fault::Timeout => DirectFault::Timeout,
            Fault::Tls => DirectFault::Tls,
            Fault::Protocol => DirectFault::Protocol,
            Fault::Invalid => DirectFault::Invalid,
        };
        Self { fault, why }
    }
}
