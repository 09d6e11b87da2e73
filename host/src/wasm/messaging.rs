//! `wasi:messaging` for handlers: an event comes in as a message, a message that is sent is an emitted
//! event, an error is a retry.
//!
//! Rule: what is sent is an effect of the delivery like any other: recorded with it, or not at all.

mod metadata;

use bytes::Bytes;
use wasmtime::Store;
use wasmtime::component::{HasSelf, Linker, Resource};

use super::bindings::tidegate::plugin::types::{Failure, RetryRequest};
use super::context::{Denial, DraftIn};
use super::drafts::messaging::exports::wasi::messaging::incoming_handler::Guest;
use super::drafts::messaging::wasi::messaging::{producer, request_reply, types};
use super::invoke::Returned;
use super::shelf::Held;
use super::store::StoreData;
use crate::event::Event;

/// Where messages are sent to.
#[allow(unreachable_pub, reason = "the generated bindings name it in public")]
pub struct Client {
    /// Another bus; none: that of the input.
    bus: Option<String>,
    is_connected: bool,
}

/// A message on its way.
#[allow(unreachable_pub, reason = "the generated bindings name it in public")]
pub struct Message {
    topic: Option<String>,
    content_type: Option<String>,
    data: Bytes,
    /// Whether the data is the input's, which the host has in memory anyway.
    is_shared: bool,
    metadata: Option<Vec<(String, String)>>,
}

/// Options of a request: nothing is done with them.
#[allow(unreachable_pub, reason = "the generated bindings name it in public")]
pub struct Options;

type Given<T> = wasmtime::Result<Result<T, types::Error>>;

impl Held for Client {
    fn bytes(&self) -> usize {
        self.bus.as_ref().map_or(0, String::len)
    }
}

impl Held for Options {
    fn bytes(&self) -> usize {
        0
    }
}

impl Held for Message {
    fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let data = if self.is_shared { 0 } else { self.data.len() };
        let pairs = self.metadata.iter().flatten();
        // Two texts cost more than their letters.
        let pairs = pairs.map(|(name, value)| 48 + name.len() + value.len()).sum::<usize>();
        text(&self.topic) + text(&self.content_type) + data + pairs
    }
}

impl Message {
    /// An event as it comes in, at an attempt.
    fn of(event: &Event, attempt: u32) -> Self {
        let content_type = &event.content_type;
        Self {
            topic: Some(event.kind.as_ref().to_owned()),
            content_type: (!content_type.is_empty()).then(|| content_type.as_ref().to_owned()),
            data: event.data.clone(),
            is_shared: true,
            metadata: Some(metadata::of(event, attempt)),
        }
    }
}

impl From<Denial> for types::Error {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::ReadOnly => Self::PermissionDenied(denial.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// Links what such a component may import.
pub(super) fn add_to_linker(linker: &mut Linker<StoreData>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasSelf<StoreData>>(linker, |data| data)?;
    producer::add_to_linker::<_, HasSelf<StoreData>>(linker, |data| data)?;
    request_reply::add_to_linker::<_, HasSelf<StoreData>>(linker, |data| data)
}

/// Hands the event of the delivery to a guest.
pub(super) async fn handle(
    guest: &Guest,
    store: &mut Store<StoreData>,
    event: &Event,
) -> wasmtime::Result<Returned> {
    let attempt = store.data().session()?.context.attempt;
    let message = store.data_mut().shelve(Message::of(event, attempt))?;
    Ok(match guest.call_handle(&mut *store, message).await? {
        Ok(()) => Returned::Done,
        Err(error) => {
            let retry = RetryRequest { reason: in_words(error), after_ms: None };
            Returned::Failed(Failure::Retry(retry))
        }
    })
}

fn in_words(error: types::Error) -> String {
    match error {
        types::Error::Timeout => "timeout".to_owned(),
        types::Error::Connection(why) => format!("connection: {why}"),
        types::Error::PermissionDenied(why) => format!("permission denied: {why}"),
        types::Error::Other(why) => why,
    }
}

impl StoreData {
    fn publish(&mut self, bus: Option<&str>, topic: &str, message: Message) -> Given<()> {
        let parts = match metadata::to_event(message.metadata.unwrap_or_default()) {
            Ok(parts) => parts,
            Err(why) => return Ok(Err(types::Error::Other(why))),
        };
        let session = self.session_mut()?;
        let draft = session.draft_emit(DraftIn {
            kind: topic,
            key: parts.key.as_deref(),
            bus,
            content_type: message.content_type.as_deref().unwrap_or_default(),
            data: &message.data,
            attributes: parts.attributes,
        });
        Ok(session.emit(draft).map(drop).map_err(types::Error::from))
    }
}

impl types::Host for StoreData {}

impl types::HostClient for StoreData {
    fn connect(&mut self, name: String) -> Given<Resource<Client>> {
        self.called()?;
        // What names a broker elsewhere has no meaning here, and is no reason not to run.
        let bus = self.session()?.context.limits.buses.iter().find(|bus| **bus == name).cloned();
        self.shelve(Client { bus, is_connected: true }).map(Ok)
    }

    fn disconnect(&mut self, client: Resource<Client>) -> Given<()> {
        self.called()?;
        self.change(&client, |client| client.is_connected = false).map(Ok)
    }

    fn drop(&mut self, client: Resource<Client>) -> wasmtime::Result<()> {
        self.unshelve(client).map(drop)
    }
}

impl types::HostMessage for StoreData {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Message>> {
        self.called()?;
        self.shelve(Message {
            topic: None,
            content_type: None,
            data: data.into(),
            is_shared: false,
            metadata: None,
        })
    }

    fn topic(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        self.called()?;
        Ok(self.shelved(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        self.called()?;
        Ok(self.shelved(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<Message>, to: String) -> wasmtime::Result<()> {
        self.called()?;
        self.change(&message, |message| message.content_type = Some(to))
    }

    fn data(&mut self, message: Resource<Message>) -> wasmtime::Result<Vec<u8>> {
        self.called()?;
        Ok(self.shelved(&message)?.data.to_vec())
    }

    fn set_data(&mut self, message: Resource<Message>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.called()?;
        self.change(&message, |message| {
            message.data = data.into();
            message.is_shared = false;
        })
    }

    fn metadata(
        &mut self,
        message: Resource<Message>,
    ) -> wasmtime::Result<Option<types::Metadata>> {
        self.called()?;
        Ok(self.shelved(&message)?.metadata.clone())
    }

    fn add_metadata(
        &mut self,
        message: Resource<Message>,
        key: String,
        value: String,
    ) -> wasmtime::Result<()> {
        self.called()?;
        self.change(&message, |message| {
            let pairs = message.metadata.get_or_insert_default();
            pairs.retain(|(name, _)| *name != key);
            pairs.push((key, value));
        })
    }

    fn set_metadata(
        &mut self,
        message: Resource<Message>,
        meta: types::Metadata,
    ) -> wasmtime::Result<()> {
        self.called()?;
        self.change(&message, |message| message.metadata = Some(meta))
    }

    fn remove_metadata(&mut self, message: Resource<Message>, key: String) -> wasmtime::Result<()> {
        self.called()?;
        self.change(&message, |message| {
            if let Some(pairs) = &mut message.metadata {
                pairs.retain(|(name, _)| *name != key);
            }
        })
    }

    fn drop(&mut self, message: Resource<Message>) -> wasmtime::Result<()> {
        self.unshelve(message).map(drop)
    }
}

impl producer::Host for StoreData {
    fn send(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Message>,
    ) -> Given<()> {
        self.called()?;
        let message = self.unshelve(message)?;
        let client = self.shelved(&client)?;
        if !client.is_connected {
            return Ok(Err(types::Error::Connection("the client was disconnected".to_owned())));
        }
        let bus = client.bus.clone();
        self.publish(bus.as_deref(), &topic, message)
    }
}

impl request_reply::Host for StoreData {
    fn request(
        &mut self,
        _client: Resource<Client>,
        _topic: String,
        _message: Resource<Message>,
        options: Option<Resource<Options>>,
    ) -> Given<Vec<Resource<Message>>> {
        self.called()?;
        if let Some(options) = options {
            self.unshelve(options)?;
        }
        let why = "`request` cannot be had here: a message is sent once its delivery is recorded, so \
                   nobody can answer before; send it, and handle the answer as a message of its own";
        Ok(Err(types::Error::Other(why.to_owned())))
    }

    fn reply(&mut self, reply_to: Resource<Message>, message: Resource<Message>) -> Given<()> {
        self.called()?;
        let message = self.unshelve(message)?;
        let asked = self.shelved(&reply_to)?.metadata.as_deref().and_then(metadata::reply_topic);
        match asked.map(str::to_owned) {
            Some(topic) => self.publish(None, &topic, message),
            None => Ok(Ok(())),
        }
    }
}

impl request_reply::HostRequestOptions for StoreData {
    fn new(&mut self) -> wasmtime::Result<Resource<Options>> {
        self.called()?;
        self.shelve(Options)
    }

    fn set_timeout_ms(&mut self, _options: Resource<Options>, _ms: u32) -> wasmtime::Result<()> {
        Ok(self.called()?)
    }

    fn set_expected_replies(
        &mut self,
        _options: Resource<Options>,
        _count: u32,
    ) -> wasmtime::Result<()> {
        Ok(self.called()?)
    }

    fn drop(&mut self, options: Resource<Options>) -> wasmtime::Result<()> {
        self.unshelve(options).map(drop)
    }
}
