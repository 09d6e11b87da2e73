//! How it answers.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};

use super::views::{
    answered, bus_view, dead_letter_view, key_view, log_line_view, plugin_view, said_back,
    tree_event_view,
};
use super::{EPOCH, FakeHost, check_bus, start};
use crate::api::filter::{EventFilter, Point};
use crate::api::host::{
    Answer, Answered, Appended, CommandRequest, Cursor, DeadLetter, DeadLetterFilter,
    DeadLetterSelection, DiffRequest, EventPage, EventStream, Follow, HostApi, HostError,
    LogStream, Publish, PublishError, QueryRequest, Readiness, RequestError, StateEntry,
};
use crate::api::view::{
    ActedView, BusKind, BusView, ClockView, DeadLetterView, DeliveryView, DiffView, InputView,
    KeyState, KeyView, PluginState, PluginView, PluginsView, RewindView, StatusView, TimerView,
    TimersView, Timestamp, TreeView, TypeView,
};
use crate::effects::OutcomeKind;
use crate::event::{Digest, Event, Key, Position};
use crate::plugin::Start;

impl HostApi for FakeHost {
    fn publish<'a>(
        &'a self,
        bus: Option<&'a str>,
        batch: Vec<Publish>,
    ) -> Answer<'a, Vec<Appended>, PublishError> {
        Box::pin(async move {
            check_bus(bus).map_err(|_| PublishError::NoBus(bus.unwrap_or_default().to_owned()))?;
            self.append(batch)
        })
    }

    fn bus_kind(&self, bus: Option<&str>) -> Option<BusKind> {
        let memory = bus == Some("live");
        Some(if memory { BusKind::Memory } else { BusKind::Durable })
    }

    fn event<'a>(
        &'a self,
        bus: Option<&'a str>,
        position: Position,
    ) -> Answer<'a, Option<Arc<Event>>> {
        Box::pin(async move {
            check_bus(bus)?;
            Ok(self.events().into_iter().find(|e| e.position == position))
        })
    }

    fn events<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: &'a EventFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Answer<'a, EventPage> {
        Box::pin(async move {
            check_bus(bus)?;
            let after = start(filter, cursor)?.unwrap_or(0);
            let all = self.events();
            let matching = all.iter().filter(|e| {
                e.position.0 > after
                    && filter.matches(e)
                    && filter.has_begun(&e.heading())
                    && !filter.has_ended(&e.heading())
            });
            let events: Vec<_> = matching.take(limit).cloned().collect();
            let next = events.last().map(|e| e.position).filter(|_| events.len() == limit);
            Ok(EventPage { epoch: EPOCH, events, next })
        })
    }

    fn tree<'a>(&'a self, bus: Option<&'a str>, position: Position) -> Answer<'a, TreeView> {
        Box::pin(async move {
            check_bus(bus)?;
            let event = self.events().into_iter().find(|e| e.position == position);
            let event = event
                .ok_or_else(|| HostError::NotFound(format!("event at position {position}")))?;
            let events = vec![tree_event_view(&event)];
            Ok(TreeView { position: position.0, events, truncated: false })
        })
    }

    fn stream<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: EventFilter,
        cursor: Option<Cursor>,
    ) -> Answer<'a, EventStream> {
        Box::pin(async move {
            check_bus(bus)?;
            let live = self.events().len() as u64;
            let said = start(&filter, cursor)?;
            let begins_after = said.is_none().then_some(Position(live));
            let next = usize::try_from(said.unwrap_or(live)).unwrap();
            let state = (next, self.events.subscribe(), filter);
            let events = stream::unfold(state, |(mut next, mut events, filter)| async move {
                loop {
                    let event = events.borrow_and_update().get(next).cloned();
                    let Some(event) = event else {
                        events.changed().await.ok()?;
                        continue;
                    };
                    next += 1;
                    if filter.has_ended(&event.heading()) {
                        return None;
                    }
                    if filter.matches(&event) {
                        return Some((event, (next, events, filter)));
                    }
                }
            });
            Ok(EventStream { epoch: EPOCH, begins_after, events: events.boxed() })
        })
    }

    fn types<'a>(
        &'a self,
        bus: Option<&'a str>,
        only: Option<&'a str>,
    ) -> Answer<'a, Vec<TypeView>> {
        Box::pin(async move {
            check_bus(bus)?;
            let mut counts: HashMap<String, u64> = HashMap::new();
            for event in self.events() {
                *counts.entry(event.kind.to_string()).or_default() += 1;
            }
            counts.retain(|kind, _| only.is_none_or(|only| only == kind));
            let views = counts.into_iter().map(|(kind, count)| TypeView {
                emitted_only: false,
                kind,
                count,
                last_seen: None,
                subscribers: Vec::new(),
            });
            let mut views: Vec<_> = views.collect();
            views.sort_by(|a, b| a.kind.cmp(&b.kind));
            Ok(views)
        })
    }

    fn buses(&self) -> Answer<'_, Vec<BusView>> {
        Box::pin(async move { Ok(vec![bus_view(self.events().len() as u64)]) })
    }

    fn follow_clock<'a>(&'a self, bus: &'a str, actor: &'a str) -> Answer<'a, ClockView> {
        Box::pin(async move {
            check_bus(Some(bus))?;
            if bus == "live" {
                return Err(HostError::Conflict("bus `live` is a memory bus".to_owned()));
            }
            self.actors.lock().unwrap().push(actor.to_owned());
            let (before, after) = (Timestamp(0), Timestamp(3_600_000));
            Ok(ClockView { bus: bus.to_owned(), before, after })
        })
    }

    fn plugins(&self) -> Answer<'_, PluginsView> {
        Box::pin(async {
            let plugins = vec![plugin_view("totals", PluginState::Live)?];
            Ok(PluginsView { plugins, skipped: Vec::new() })
        })
    }

    fn plugin<'a>(&'a self, name: &'a str) -> Answer<'a, PluginView> {
        Box::pin(async move { plugin_view(name, PluginState::Live) })
    }

    fn pause<'a>(
        &'a self,
        name: &'a str,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        Box::pin(async move {
            let view = self.act(name, PluginState::Paused, actor)?;
            Ok(PluginView { reason: Some(reason.to_owned()), ..view })
        })
    }

    fn resume<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, PluginView> {
        Box::pin(async move { self.act(name, PluginState::Live, actor) })
    }

    fn rollback<'a>(
        &'a self,
        name: &'a str,
        _module: Option<Digest>,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        Box::pin(async move { self.act(name, PluginState::Live, actor) })
    }

    fn rewind<'a>(&'a self, name: &'a str, to: Start, actor: &'a str) -> Answer<'a, PluginView> {
        Box::pin(async move {
            let view = self.act(name, PluginState::Live, actor)?;
            let after = match to {
                Start::Position(first) => first.0 - 1,
                _ => 0,
            };
            let until = 20;
            let rewind = RewindView { after, until, position: after, serves: 0 };
            Ok(PluginView { rewind: Some(rewind).filter(|_| after < until), generation: 1, ..view })
        })
    }

    fn rename<'a>(
        &'a self,
        name: &'a str,
        new_name: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        Box::pin(async move {
            let view = self.act(name, PluginState::Live, actor)?;
            Ok(PluginView { name: new_name.to_owned(), ..view })
        })
    }

    fn diff<'a>(
        &'a self,
        name: &'a str,
        request: DiffRequest,
    ) -> Answer<'a, BoxFuture<'static, DiffView>> {
        Box::pin(async move {
            plugin_view(name, PluginState::Live)?;
            let view = DiffView {
                plugin: name.to_owned(),
                from: request.from.map_or(1, |from| from.0),
                equal: 1,
                ..DiffView::default()
            };
            let view: BoxFuture<'static, DiffView> = Box::pin(async { view });
            Ok(view)
        })
    }

    fn forget<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.act(name, PluginState::Removed, actor)?;
            Err(HostError::Conflict(format!("`{name}.wasm` is still there: remove it first")))
        })
    }

    fn logs<'a>(
        &'a self,
        name: &'a str,
        recent: usize,
        last: Option<Cursor>,
        _follow: Follow,
    ) -> Answer<'a, LogStream> {
        Box::pin(async move {
            plugin_view(name, PluginState::Live)?;
            let lines = match last {
                None => 0..recent.min(3),
                Some(last) => usize::try_from(last.after.0).unwrap()..3,
            };
            let begins_after = lines.start as u64;
            let lines = lines.map(|n| (n as u64 + 1, log_line_view(n)));
            Ok(LogStream { epoch: 7, begins_after, lines: stream::iter(lines).boxed() })
        })
    }

    fn state_get<'a>(
        &'a self,
        plugin: &'a str,
        _key: &'a Key,
        name: &'a str,
        at: Option<Point>,
    ) -> Answer<'a, Option<StateEntry>> {
        Box::pin(async move {
            plugin_view(plugin, PluginState::Live)?;
            if at == Some(Point::Position(Position(0))) {
                return Ok(None);
            }
            let value = match name {
                "count" => Bytes::from_static(b"25"),
                "raw" => Bytes::from_static(&[0xff, 0]),
                _ => return Ok(None),
            };
            Ok(Some(StateEntry { name: name.into(), value: (*value).into(), expires_ms: None }))
        })
    }

    fn state_list<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Point>,
    ) -> Answer<'a, Vec<StateEntry>> {
        Box::pin(async move {
            let mut entries = Vec::new();
            for name in ["count", "raw"] {
                if name.starts_with(prefix) && after.is_none_or(|after| name > after) {
                    entries.extend(self.state_get(plugin, key, name, at).await?);
                }
            }
            entries.truncate(limit);
            Ok(entries)
        })
    }

    fn command<'a>(
        &'a self,
        plugin: &'a str,
        request: CommandRequest,
    ) -> Answer<'a, Answered, RequestError> {
        Box::pin(async move {
            if plugin != "totals" {
                return Err(RequestError::NotFound(format!("there is no plugin `{plugin}`")));
            }
            let answered = match request.name.as_str() {
                "reject" => Err((OutcomeKind::Reject, "not today")),
                "trap" => Err((OutcomeKind::Trap, "unreachable")),
                "retry" => Err((OutcomeKind::Retry, "later")),
                "timeout" => Err((OutcomeKind::Timeout, "")),
                _ => Ok(said_back(&request)),
            };
            answered.map_err(|(outcome, reason)| {
                let error = RequestError::Failed { outcome, reason: reason.to_owned() };
                match request.idempotency_key.as_deref() {
                    None => error,
                    Some(key) => {
                        RequestError::Recorded { error: Box::new(error), repeated: key == "again" }
                    }
                }
            })
        })
    }

    fn query<'a>(
        &'a self,
        plugin: &'a str,
        query: QueryRequest,
    ) -> Answer<'a, Answered, RequestError> {
        Box::pin(async move {
            if plugin != "totals" {
                return Err(RequestError::NotFound(format!("there is no plugin `{plugin}`")));
            }
            if let Some(position) = query.wait {
                return Err(RequestError::WaitTimeout { position });
            }
            Ok(Answered { data: format!("{query:?}").into(), ..answered() })
        })
    }

    fn dead_letters<'a>(
        &'a self,
        _filter: &'a DeadLetterFilter,
    ) -> Answer<'a, Vec<DeadLetterView>> {
        Box::pin(async { Ok(vec![dead_letter_view("1")]) })
    }

    fn dead_letter_delivery<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeliveryView>> {
        Box::pin(async move {
            let event = self.events().first().cloned();
            Ok(event.filter(|_| id == "1").map(|event| DeliveryView {
                plugin: "totals".to_owned(),
                attempt: 2,
                redriven: false,
                manifest: None,
                input: InputView::of(&event),
                state: Vec::new(),
            }))
        })
    }

    fn dead_letter<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeadLetter>> {
        Box::pin(async move {
            let event = self.events().first().cloned();
            Ok((id == "1").then(|| DeadLetter { letter: dead_letter_view(id), event }))
        })
    }

    fn redrive<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        actor: &'a str,
    ) -> Answer<'a, ActedView> {
        Box::pin(async move {
            if which.id.as_deref().is_some_and(|id| id != "1") {
                return Err(HostError::NotFound("dead letter".to_owned()));
            }
            self.actors.lock().unwrap().push(actor.to_owned());
            Ok(ActedView { count: 1, ..ActedView::default() })
        })
    }

    fn discard<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        _reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, ActedView> {
        self.redrive(which, actor)
    }

    fn timers<'a>(
        &'a self,
        _: &'a str,
        key: Option<&'a Key>,
        _: Option<&'a str>,
        _: usize,
    ) -> Answer<'a, TimersView> {
        Box::pin(async move {
            let key = key.map_or_else(|| "k 1".to_owned(), ToString::to_string);
            let (name, due) = ("pay".to_owned(), Timestamp(1_700_000_000_000));
            let timer = TimerView { key, name, due, fired: Some(9), bytes: 2 };
            Ok(TimersView { timers: vec![timer], next: None })
        })
    }

    fn key<'a>(&'a self, plugin: &'a str, key: &'a Key) -> Answer<'a, KeyView> {
        Box::pin(async move { key_view(plugin, key, KeyState::Parked) })
    }

    fn hold<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, KeyView> {
        Box::pin(async move {
            let (reason, actor) = (Some(reason.to_owned()), Some(actor.to_owned()));
            Ok(KeyView { reason, actor, ..key_view(plugin, key, KeyState::Held)? })
        })
    }

    fn release<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        _actor: &'a str,
    ) -> Answer<'a, KeyView> {
        Box::pin(async move { key_view(plugin, key, KeyState::Live) })
    }

    fn status(&self) -> Answer<'_, StatusView> {
        Box::pin(async {
            Ok(StatusView {
                version: "0.1.0".to_owned(),
                ready: true,
                waiting_for: Vec::new(),
                draining: false,
                started: Timestamp(0),
                data: "/data".to_owned(),
                plugins_folder: "/plugins".to_owned(),
                buses: self.buses().await?,
                plugins: self.plugins().await?.plugins,
                skipped: Vec::new(),
            })
        })
    }

    fn ready(&self) -> Readiness {
        Readiness { waiting_for: self.waiting_for.lock().unwrap().clone() }
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
}
