//! One line of a program's output, and how each kind of it becomes an effect.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::super::check::Text;
use super::super::super::context::{CallIn, Denial, DraftIn};
use super::super::super::session::Session;
use super::super::{JSON, is_json};
use super::Said;
use super::object::{self, Object};
use crate::effects::Response as Answer;

/// How long one attempt of a call may take where the line does not say: as in the SDKs.
const CALL_TIMEOUT_MS: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    #[serde(borrow, default, deserialize_with = "object::member")]
    emit: Option<Emit<'a>>,
    #[serde(borrow, default, deserialize_with = "object::member")]
    state: Option<State<'a>>,
    #[serde(borrow, default, deserialize_with = "object::member")]
    timer: Option<Timer<'a>>,
    #[serde(borrow, default, deserialize_with = "object::member")]
    call: Option<Call<'a>>,
    #[serde(default, deserialize_with = "object::member")]
    log: Option<Log>,
    #[serde(borrow, default, deserialize_with = "object::member")]
    response: Option<Response<'a>>,
    outcome: Option<Verdict>,
    reason: Option<String>,
    after_ms: Option<u64>,
}

/// What a line says: exactly one thing.
pub(super) enum Member<'a> {
    Emit(Emit<'a>),
    State(State<'a>),
    Timer(Timer<'a>),
    Call(Call<'a>),
    Log(Log),
    Response(Response<'a>),
    Outcome(Said),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Retry,
    Reject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Emit<'a> {
    r#type: String,
    key: Option<String>,
    bus: Option<String>,
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    #[serde(default, deserialize_with = "object::names")]
    attributes: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State<'a> {
    #[serde(borrow, default, deserialize_with = "object::names")]
    set: Option<BTreeMap<String, &'a RawValue>>,
    ttl_ms: Option<u64>,
    delete: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timer<'a> {
    set: Option<String>,
    due_ms: Option<u64>,
    after_ms: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    cancel: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call<'a> {
    name: String,
    method: Option<String>,
    url: String,
    #[serde(default, deserialize_with = "object::names")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    timeout_ms: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    level: Option<Level>,
    message: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Response<'a> {
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    #[serde(default, deserialize_with = "object::names")]
    attributes: Option<BTreeMap<String, String>>,
}

impl<'a> Line<'a> {
    /// Reads one line.
    ///
    /// # Errors
    /// What follows the number of the line in a sentence.
    pub(super) fn read(text: &'a [u8]) -> Result<Self, String> {
        let read = serde_json::from_slice(text).map(|Object(line)| line);
        read.map_err(|error| {
            // Of a text of one line, `serde_json` says "at line 1".
            let place = format!(" at line {} column {}", error.line(), error.column());
            let said = error.to_string();
            match said.strip_suffix(&place) {
                Some(why) => format!(", column {}: {why}", error.column()),
                None => format!(": {said}"),
            }
        })
    }

    /// The one thing that the line says.
    ///
    /// # Errors
    /// As [`Line::read`].
    pub(super) fn member(self) -> Result<Member<'a>, String> {
        let Self { emit, state, timer, call, log, response, outcome, reason, after_ms } = self;
        if outcome.is_none() && (reason.is_some() || after_ms.is_some()) {
            return Err(": `reason` and `after_ms` stand beside `outcome`".to_owned());
        }
        let reason = reason.unwrap_or_default();
        let said = outcome.map(|outcome| match outcome {
            Verdict::Ok => Said::Ok,
            // 0 is what a program writes that has nothing to say: the backoff of the manifest.
            Verdict::Retry => Said::Retry { reason, after_ms: after_ms.filter(|ms| *ms > 0) },
            Verdict::Reject => Said::Reject { reason },
        });
        let there = [
            emit.map(Member::Emit),
            state.map(Member::State),
            timer.map(Member::Timer),
            call.map(Member::Call),
            log.map(Member::Log),
            response.map(Member::Response),
            said.map(Member::Outcome),
        ];
        let mut there = there.into_iter().flatten();
        match (there.next(), there.next()) {
            (Some(member), None) => Ok(member),
            _ => Err(": expected exactly one of `emit`, `state`, `timer`, `call`, `log`, \
                      `response`, `outcome`"
                .to_owned()),
        }
    }
}

impl Emit<'_> {
    pub(super) fn take(self, session: &mut Session) -> Result<(), Denial> {
        let (content_type, data) = content(self.datacontenttype, self.data, self.data_base64)?;
        let draft = session.draft_emit(DraftIn {
            kind: &self.r#type,
            key: self.key.as_deref(),
            bus: self.bus.as_deref(),
            content_type: &content_type,
            data: &data,
            attributes: pairs(self.attributes.iter().flatten()),
        });
        session.emit(draft).map(drop)
    }
}

impl State<'_> {
    pub(super) fn take(self, session: &mut Session) -> Result<(), Denial> {
        if self.ttl_ms.is_some() && self.set.is_none() {
            return Err(Denial::Invalid("`ttl_ms` is about what stands in `set`".to_owned()));
        }
        for (name, value) in self.set.into_iter().flatten() {
            let write = session.draft_write(&name, Some(value.get().as_bytes()), self.ttl_ms);
            session.write(write)?;
        }
        for name in self.delete.into_iter().flatten() {
            let write = session.draft_write(&name, None, None);
            session.write(write)?;
        }
        Ok(())
    }
}

impl Timer<'_> {
    pub(super) fn take(self, session: &mut Session) -> Result<(), Denial> {
        let invalid = |why: &str| Err(Denial::Invalid(why.to_owned()));
        let now_ms = session.context.now_ms;
        let due_ms = self.due_ms.or(self.after_ms.map(|ms| now_ms.saturating_add(ms)));
        let change = match (self.set, due_ms, self.cancel) {
            (Some(_), Some(_), None) if self.due_ms.is_some() && self.after_ms.is_some() => {
                return invalid("`due_ms` and `after_ms` exclude each other");
            }
            (Some(name), Some(due_ms), None) => {
                let data = bytes(None, self.data, self.data_base64)?;
                session.draft_timer(&name, due_ms, &data)
            }
            (Some(_), None, None) => return invalid("`due_ms` or `after_ms` is missing"),
            (None, None, Some(name)) if self.data.is_none() && self.data_base64.is_none() => {
                session.draft_cancel(&name)
            }
            _ => {
                return invalid("a timer has `set` with `due_ms` or `after_ms`, or `cancel` alone");
            }
        };
        session.change_timer(change)
    }
}

impl Call<'_> {
    pub(super) fn take(self, session: &mut Session) -> Result<(), Denial> {
        let mut headers = self.headers.unwrap_or_default();
        let told = headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"));
        if self.data.is_some() && !told {
            headers.insert("content-type".to_owned(), JSON.to_owned());
        }
        let body = bytes(None, self.data, self.data_base64)?;
        let call = session.draft_call(CallIn {
            name: &self.name,
            method: self.method.as_deref().unwrap_or("POST"),
            url: &self.url,
            headers: pairs(&headers),
            body: &body,
            timeout_ms: self.timeout_ms.unwrap_or(CALL_TIMEOUT_MS),
        });
        session.call(call).map(drop)
    }
}

impl Response<'_> {
    pub(super) fn take(self, session: &mut Session) -> Result<(), Denial> {
        let (content_type, data) = content(self.datacontenttype, self.data, self.data_base64)?;
        session.respond(Answer {
            content_type: content_type.as_str().into(),
            data: data.into(),
            attributes: pairs(self.attributes.iter().flatten()),
        })
    }
}

impl Log {
    pub(super) fn take(&self, session: &mut Session) {
        session.log(self.level.unwrap_or(Level::Info).name(), &self.message);
    }
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

fn pairs<'a>(of: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<(Text, Text)> {
    of.into_iter().map(|(name, value)| (Text::from(&**name), Text::from(&**value))).collect()
}

/// A payload with its media type: JSON where there is one and nothing else is said.
fn content(
    content_type: Option<String>,
    data: Option<&RawValue>,
    data_base64: Option<String>,
) -> Result<(String, Vec<u8>), Denial> {
    let bytes = bytes(content_type.as_deref(), data, data_base64)?;
    let usual = if data.is_some() { JSON } else { "" };
    Ok((content_type.unwrap_or_else(|| usual.to_owned()), bytes))
}

/// A payload, by the rules of CloudEvents: a string under a type that is not JSON is the text itself.
fn bytes(
    content_type: Option<&str>,
    data: Option<&RawValue>,
    data_base64: Option<String>,
) -> Result<Vec<u8>, Denial> {
    match (data, data_base64) {
        (None, None) => Ok(Vec::new()),
        (Some(_), Some(_)) => {
            Err(Denial::Invalid("`data` and `data_base64` exclude each other".to_owned()))
        }
        (None, Some(text)) => {
            BASE64.decode(text).map_err(|error| Denial::Invalid(format!("`data_base64`: {error}")))
        }
        (Some(value), None) => {
            let json = content_type.is_none_or(is_json);
            let text = if json { None } else { serde_json::from_str::<String>(value.get()).ok() };
            Ok(text.unwrap_or_else(|| value.get().to_owned()).into_bytes())
        }
    }
}
