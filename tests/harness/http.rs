//! A plain HTTP client: what any program would send, answers as they come.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;
use ureq::tls::{Certificate, TlsConfig};

/// Longest wait for any answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What a host under test shows where it speaks TLS.
const CERTIFICATE: &[u8] = include_bytes!("../data/tls/one.pem");
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A client of one host.
#[derive(Clone)]
pub(crate) struct Http {
    agent: Agent,
    url: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} {error}: {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// The body of a success.
    pub(crate) fn expect_ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl Http {
    pub(crate) fn new(url: &str) -> Self {
        let trusted = Certificate::from_pem(CERTIFICATE).expect("it is one");
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .tls_config(TlsConfig::builder().root_certs([trusted].into()).build())
            .proxy(None)
            .timeout_global(Some(ANSWER_TIMEOUT));
        Self { agent: config.build().into(), url: url.to_owned() }
    }

    /// Sends a request; `Err` where no answer came.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match method {
            "GET" | "DELETE" => self.agent.run(request.body(())?)?,
            _ => self.agent.run(request.body(body)?)?,
        };
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let body = body.with_config().limit(BODY_BYTES_MAX).read_to_vec()?;
        Ok(Answer { status, headers, body })
    }

    /// An answer that must come.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[]).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// As [`Self::get`].
    pub(crate) fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        self.send("POST", path, &[("content-type", content_type)], body)
            .unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Publishes events as one batch; `Err` where the host did not take it or is gone.
    pub(crate) fn try_publish(&self, bus: &str, events: &[&Value]) -> Result<Vec<Value>, String> {
        let body = serde_json::to_vec(events).unwrap();
        let path = format!("/v1/events?bus={bus}");
        let headers = [("content-type", "application/cloudevents-batch+json")];
        let answer =
            self.send("POST", &path, &headers, &body).map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
    }

    /// As [`Self::try_publish`], on `main`, and it must succeed.
    pub(crate) fn publish(&self, events: &[Value]) -> Vec<Value> {
        let events: Vec<&Value> = events.iter().collect();
        self.try_publish("main", &events).unwrap_or_else(|why| panic!("publish: {why}"))
    }

    /// Every event that fits the query (`type=a.b&key=k`), page by page.
    pub(crate) fn events(&self, query: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let answer = self.get(&format!("/v1/events?limit=1000&{query}{cursor}"));
            let next = answer.header("tidegate-cursor").map(|text| format!("&cursor={text}"));
            let Value::Array(page) = answer.expect_ok() else { panic!("no list of events") };
            found.extend(page);
            match next {
                Some(next) => cursor = next,
                None => return found,
            }
        }
    }
}
