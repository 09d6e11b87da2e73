//! What the API asks, each handed to the part that knows.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use crate::api::filter::{EventFilter, Point};
use crate::api::host::{
    Answer, Answered, Appended, CommandRequest, Cursor, DeadLetter, DeadLetterFilter,
    DeadLetterSelection, DiffRequest, EventPage, EventStream, Follow, HostApi, LogStream, Publish,
    PublishError, QueryRequest, Readiness, RequestError, StateEntry,
};
use crate::api::view::{
    ActedView, BusKind, BusView, ClockView, DeadLetterView, DeliveryView, DiffView, KeyView,
    PluginView, PluginsView, StatusView, TimersView, TreeView, TypeView,
};
use crate::bus::notes::{Beginning, Following};
use crate::bus::operate::Act;
use crate::event::{Digest, Event, Key, Position};
use crate::plugin::Start;

use super::{Host, events, views};

impl HostApi for Host {
    fn publish<'a>(
        &'a self,
        bus: Option<&'a str>,
        batch: Vec<Publish>,
    ) -> Answer<'a, Vec<Appended>, PublishError> {
        self.publish_on(bus, batch).boxed()
    }

    fn bus_kind(&self, bus: Option<&str>) -> Option<BusKind> {
        self.bus(bus).ok().map(|(bus, _)| views::bus_kind(bus))
    }

    fn event<'a>(
        &'a self,
        bus: Option<&'a str>,
        position: Position,
    ) -> Answer<'a, Option<Arc<Event>>> {
        async move { self.bus(bus)?.0.event(position).await.map_err(events::read_error) }.boxed()
    }

    fn events<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: &'a EventFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Answer<'a, EventPage> {
        async move {
            let bus = &self.bus(bus)?.0;
            events::page(bus, self.epoch_of(bus), filter, cursor, limit).await
        }
        .boxed()
    }

    fn tree<'a>(&'a self, bus: Option<&'a str>, position: Position) -> Answer<'a, TreeView> {
        async move { events::tree(&self.bus(bus)?.0, position).await }.boxed()
    }

    fn stream<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: EventFilter,
        cursor: Option<Cursor>,
    ) -> Answer<'a, EventStream> {
        async move {
            let bus = Arc::clone(&self.bus(bus)?.0);
            let epoch = self.epoch_of(&bus);
            events::follow(bus, epoch, filter, cursor).await
        }
        .boxed()
    }

    fn types<'a>(
        &'a self,
        bus: Option<&'a str>,
        only: Option<&'a str>,
    ) -> Answer<'a, Vec<TypeView>> {
        async move { Ok(self.types_of(&self.bus(bus)?.0, only)) }.boxed()
    }

    fn buses(&self) -> Answer<'_, Vec<BusView>> {
        async { Ok(self.bus_views()) }.boxed()
    }

    fn follow_clock<'a>(&'a self, bus: &'a str, actor: &'a str) -> Answer<'a, ClockView> {
        async move { self.follow_clock_of(bus, actor).await }.boxed()
    }

    fn plugins(&self) -> Answer<'_, PluginsView> {
        async { Ok(self.plugins.view()) }.boxed()
    }

    fn plugin<'a>(&'a self, name: &'a str) -> Answer<'a, PluginView> {
        async move { self.plugins.view_of(name) }.boxed()
    }

    fn pause<'a>(
        &'a self,
        name: &'a str,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        async move {
            self.plugins.pause(name, reason, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn resume<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, PluginView> {
        async move {
            self.plugins.resume(name, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn rollback<'a>(
        &'a self,
        name: &'a str,
        module: Option<Digest>,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        async move {
            self.plugins.rollback(name, module, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn rewind<'a>(&'a self, name: &'a str, to: Start, actor: &'a str) -> Answer<'a, PluginView> {
        async move {
            self.plugins.rewind(name, &to, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn rename<'a>(
        &'a self,
        name: &'a str,
        new_name: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        async move {
            self.plugins.rename(name, new_name, actor).await?;
            self.plugins.view_of(new_name)
        }
        .boxed()
    }

    fn diff<'a>(
        &'a self,
        name: &'a str,
        request: DiffRequest,
    ) -> Answer<'a, BoxFuture<'static, DiffView>> {
        async move { Ok(self.plugins.diff(name, request).await?.boxed()) }.boxed()
    }

    fn forget<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, ()> {
        async move {
            self.plugins.forget(name, actor).await?;
            self.metrics.forget(name);
            Ok(())
        }
        .boxed()
    }

    fn logs<'a>(
        &'a self,
        name: &'a str,
        recent: usize,
        last: Option<Cursor>,
        follow: Follow,
    ) -> Answer<'a, LogStream> {
        async move {
            let epoch = self.epoch_of_start();
            let from = match last {
                None => Beginning::Last(recent),
                Some(last) if last.epoch == epoch => Beginning::After(last.after.0),
                Some(_) => Beginning::After(0),
            };
            let Following { begins_after, kept, new } =
                self.plugins.log_of(name).await?.follow(from);
            let kept = stream::iter(kept);
            let new = stream::unfold(new, |mut new| async {
                loop {
                    match new.recv().await {
                        Ok(line) => return Some((line, new)),
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return None,
                    }
                }
            });
            let lines = match follow {
                Follow::Kept => kept.boxed(),
                Follow::New => kept.chain(new).boxed(),
            };
            let lines = lines.map(|(number, line)| (number, views::log_line(&line))).boxed();
            Ok(LogStream { epoch, begins_after, lines })
        }
        .boxed()
    }

    fn state_get<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        name: &'a str,
        at: Option<Point>,
    ) -> Answer<'a, Option<StateEntry>> {
        async move { Ok(self.state_entries(plugin, key, at, &|n: &str| n == name, 1).await?.pop()) }
            .boxed()
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
        let wanted =
            move |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
        async move { self.state_entries(plugin, key, at, &wanted, limit).await }.boxed()
    }

    fn command<'a>(
        &'a self,
        plugin: &'a str,
        request: CommandRequest,
    ) -> Answer<'a, Answered, RequestError> {
        self.plugins.command(plugin, request).boxed()
    }

    fn query<'a>(
        &'a self,
        plugin: &'a str,
        query: QueryRequest,
    ) -> Answer<'a, Answered, RequestError> {
        self.plugins.query(plugin, query).boxed()
    }

    fn dead_letters<'a>(&'a self, filter: &'a DeadLetterFilter) -> Answer<'a, Vec<DeadLetterView>> {
        self.list_dead_letters(filter).boxed()
    }

    fn dead_letter_delivery<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeliveryView>> {
        self.read_delivery(id).boxed()
    }

    fn dead_letter<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeadLetter>> {
        self.read_dead_letter(id).boxed()
    }

    fn redrive<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        actor: &'a str,
    ) -> Answer<'a, ActedView> {
        async move { self.act(which, &Act::Redrive, actor).await }.boxed()
    }

    fn discard<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, ActedView> {
        async move { self.act(which, &Act::Discard(reason.to_owned()), actor).await }.boxed()
    }

    fn timers<'a>(
        &'a self,
        plugin: &'a str,
        key: Option<&'a Key>,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, TimersView> {
        self.list_timers(plugin, key, after, limit).boxed()
    }

    fn key<'a>(&'a self, plugin: &'a str, key: &'a Key) -> Answer<'a, KeyView> {
        self.show_key(plugin, key).boxed()
    }

    fn hold<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, KeyView> {
        async move {
            self.plugins.hold(plugin, key, reason, actor).await?;
            self.show_key(plugin, key).await
        }
        .boxed()
    }

    fn release<'a>(&'a self, plugin: &'a str, key: &'a Key, actor: &'a str) -> Answer<'a, KeyView> {
        async move {
            self.plugins.release(plugin, key, actor).await?;
            self.show_key(plugin, key).await
        }
        .boxed()
    }

    fn status(&self) -> Answer<'_, StatusView> {
        async { Ok(self.status_now()) }.boxed()
    }

    fn ready(&self) -> Readiness {
        self.plugins.readiness()
    }

    fn metrics(&self) -> String {
        let buses = self.buses.iter().map(|(bus, _)| views::bus_standing(bus)).collect();
        let standing = crate::metrics::Standing { buses, plugins: self.plugins.standing() };
        self.metrics.encode(&standing)
    }
}
