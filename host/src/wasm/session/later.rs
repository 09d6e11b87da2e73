//! Effects that come back later as events of the key: timers and calls.

use bytes::Bytes;

use super::super::check::{self, Text};
use super::super::context::{CallIn, Denial, Exceeded};
use super::Session;
use crate::config::secrets::secret_names;
use crate::effects::{OutgoingCall, TimerChange};
use crate::limits;

impl Session {
    /// Checks a timer to be set.
    pub(in crate::wasm) fn draft_timer(
        &self,
        name: &str,
        due_ms: u64,
        data: &[u8],
    ) -> Result<TimerChange, Denial> {
        self.may_change_timer(name)?;
        self.has_room(name.len() + data.len())?;
        check::bytes("`data`", data.len(), limits::TIMER_DATA_BYTES_MAX)?;
        let others = self.context.state().other_timers(name) + self.invocation.effects.timers.len();
        if others >= self.context.limits.timers_max {
            return Err(Denial::Exceeded(Exceeded::TIMERS));
        }
        Ok(TimerChange::Set { name: name.into(), due_ms, data: Bytes::copy_from_slice(data) })
    }

    /// Checks a timer to be cancelled.
    pub(in crate::wasm) fn draft_cancel(&self, name: &str) -> Result<TimerChange, Denial> {
        self.may_change_timer(name)?;
        self.has_room(name.len())?;
        Ok(TimerChange::Cancel { name: name.into() })
    }

    /// Takes a checked change of a timer.
    pub(in crate::wasm) fn change_timer(
        &mut self,
        change: Result<TimerChange, Denial>,
    ) -> Result<(), Denial> {
        let change = self.noted(change)?;
        self.output_bytes += match &change {
            TimerChange::Set { name, data, .. } => name.len() + data.len(),
            TimerChange::Cancel { name } => name.len(),
        };
        self.invocation.effects.timers.push(change);
        Ok(())
    }

    fn may_change_timer(&self, name: &str) -> Result<(), Denial> {
        self.may_write()?;
        if self.context.key().is_none() {
            return Err(Denial::Unkeyed);
        }
        if self.context.limits.timers_max == 0 {
            let why = "a memory bus has no timers: subscribe to a durable one".to_owned();
            return Err(Denial::Invalid(why));
        }
        if self.invocation.effects.timers.len() >= limits::EFFECTS_MAX {
            return Err(Denial::Exceeded(Exceeded::TIMER_CHANGES));
        }
        Ok(check::name("a name", name)?)
    }

    /// Checks a request to the outside.
    pub(in crate::wasm) fn draft_call(&self, call: CallIn<'_>) -> Result<OutgoingCall, Denial> {
        self.may_write()?;
        let number = self.invocation.effects.calls.len();
        if number >= limits::EFFECTS_MAX {
            return Err(Denial::Exceeded(Exceeded::CALLS));
        }
        self.has_room(call.body.len())?;
        check::name("`name`", call.name)?;
        check::method(call.method)?;
        check::headers(&call.headers)?;
        check::bytes("`url`", call.url.len(), limits::URL_BYTES_MAX)?;
        let url = url::Url::parse(call.url)
            .map_err(|why| Denial::Invalid(format!("`url` is not absolute: {why}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Denial::Invalid("`url` must start `https://` or `http://`".to_owned()));
        }
        if !(1..=limits::CALL_TIMEOUT_MS_MAX).contains(&call.timeout_ms) {
            let max = limits::CALL_TIMEOUT_MS_MAX;
            return Err(Denial::Invalid(format!("`timeout-ms` must be 1 to {max}")));
        }
        let limits = &self.context.limits;
        if !limits.http.iter().any(|host| host.allows(&url)) {
            return Err(Denial::Denied("grants.http"));
        }
        let granted = |name: &str| limits.secrets.iter().any(|granted| granted.as_str() == name);
        if !call.headers.iter().all(|(_, value)| secret_names(value).all(granted)) {
            return Err(Denial::Denied("grants.secrets"));
        }
        let index = u32::try_from(number).unwrap_or(u32::MAX);
        let made = OutgoingCall {
            idempotency_key: self.context.seed.call_id(self.context.position(), index),
            name: call.name.into(),
            method: call.method.into(),
            url: call.url.into(),
            headers: call.headers,
            body: Bytes::copy_from_slice(call.body),
            timeout_ms: call.timeout_ms,
        };
        self.has_room(call_bytes(&made))?;
        Ok(made)
    }

    /// Takes a checked request and answers with its idempotency key.
    pub(in crate::wasm) fn call(
        &mut self,
        call: Result<OutgoingCall, Denial>,
    ) -> Result<Text, Denial> {
        let call = self.noted(call)?;
        let key = call.idempotency_key.clone();
        self.output_bytes += call_bytes(&call);
        self.invocation.effects.calls.push(call);
        Ok(key)
    }
}

fn call_bytes(call: &OutgoingCall) -> usize {
    let names = call.name.len() + call.method.len() + call.url.len();
    names + check::size(&call.headers) + call.body.len()
}
