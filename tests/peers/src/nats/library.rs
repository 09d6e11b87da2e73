//! `async-nats`, the client for Rust that NATS publishes, used as its documentation has it.

use std::collections::VecDeque;
use std::future::{IntoFuture, ready};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, Message};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;

use super::{CONSUMER, Delivery, STREAM};
use crate::Plan;
use crate::lines::payload;
use crate::side::{Latencies, rate};

/// Messages that a consumer has asked for where latency is measured.
const STEADY_BATCH: usize = 256;

/// Events a second, published until acknowledged.
pub(super) fn publish(plan: &Plan, port: u16, delivery: Delivery) -> Result<f64> {
    Runtime::new()?.block_on(async {
        let publisher = Publisher::connect(plan, port, delivery).await?;
        let began = Instant::now();
        publisher.publish_all(plan).await?;
        Ok(rate(plan.events, began))
    })
}

/// Events a second, published until consumed and that acknowledged.
pub(super) fn pipeline(plan: &Plan, port: u16, delivery: Delivery) -> Result<f64> {
    Runtime::new()?.block_on(async {
        let publisher = Publisher::connect(plan, port, delivery).await?;
        let consumer = consumer(port).await?;
        let (events, in_flight) = (plan.events, usize::try_from(plan.in_flight)?);
        let began = Instant::now();
        let consumer = tokio::spawn(consume(consumer, delivery, events, in_flight));
        publisher.publish_all(plan).await?;
        consumer.await??;
        Ok(rate(events, began))
    })
}

/// Events at a steady rate; each is acknowledged before its time is taken.
pub(super) fn steady(plan: &Plan, port: u16, delivery: Delivery) -> Result<Latencies> {
    Runtime::new()?.block_on(async {
        let publisher = Publisher::connect(plan, port, delivery).await?;
        let consumer = consumer(port).await?;
        let stream = consumer.stream().max_messages_per_batch(STEADY_BATCH);
        let mut messages = stream.messages().await?;
        let (events, rate) = (plan.rate * 2, plan.rate);
        let began = Instant::now() + Duration::from_millis(100);
        let due = move |event: u64| began + Duration::from_nanos(event * 1_000_000_000 / rate);
        let handle = Handle::current();
        // On a thread of its own: the runtime's timers are no finer than a millisecond.
        let publisher = tokio::task::spawn_blocking(move || -> Result<()> {
            let mut acks = JoinSet::new();
            for event in 0..events {
                std::thread::sleep(due(event).saturating_duration_since(Instant::now()));
                acks.spawn_on(handle.block_on(publisher.send(event))?.into_future(), &handle);
            }
            for ack in handle.block_on(acks.join_all()) {
                ack?;
            }
            Ok(())
        });
        let mut latencies = Latencies::default();
        for event in 0..events {
            let message = messages.next().await.ok_or_else(no_more)??;
            acknowledge(&message, delivery).await?;
            latencies.add(due(event));
        }
        publisher.await??;
        Ok(latencies)
    })
}

struct Publisher {
    context: Context,
    delivery: Delivery,
    keys: u64,
    payload: Bytes,
}

impl Publisher {
    async fn connect(plan: &Plan, port: u16, delivery: Delivery) -> Result<Self> {
        let (context, payload) = (connect(port).await?, payload().into());
        Ok(Self { context, delivery, keys: plan.keys, payload })
    }

    /// Hands an event to the client; what comes of it is waited for apart.
    async fn send(&self, event: u64) -> Result<PublishAckFuture> {
        let message = PublishMessage::build().payload(self.payload.clone());
        let message = match self.delivery {
            Delivery::AtLeastOnce => message,
            Delivery::ExactlyOnce => message.message_id(event.to_string()),
        };
        Ok(self.context.send_publish(format!("e.key-{}", event % self.keys), message).await?)
    }

    /// Publishes all of them, and takes the acknowledgements in order.
    async fn publish_all(&self, plan: &Plan) -> Result<()> {
        let in_flight = usize::try_from(plan.in_flight)?;
        let mut acks: VecDeque<PublishAckFuture> = VecDeque::with_capacity(in_flight);
        for event in 0..plan.events {
            if acks.len() == in_flight
                && let Some(oldest) = acks.pop_front()
            {
                oldest.await?;
            }
            acks.push_back(self.send(event).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }
}

async fn connect(port: u16) -> Result<Context> {
    Ok(jetstream::new(async_nats::connect(format!("127.0.0.1:{port}")).await?))
}

async fn consumer(port: u16) -> Result<PullConsumer> {
    Ok(connect(port).await?.get_consumer_from_stream(CONSUMER, STREAM).await?)
}

async fn consume(
    consumer: PullConsumer,
    delivery: Delivery,
    events: u64,
    in_flight: usize,
) -> Result<()> {
    let mut messages = consumer.stream().max_messages_per_batch(in_flight).messages().await?;
    if delivery == Delivery::ExactlyOnce {
        let messages = messages.take(usize::try_from(events)?);
        let confirmed = messages.map(async |message| acknowledge(&message?, delivery).await);
        return confirmed.buffer_unordered(in_flight).try_for_each(|()| ready(Ok(()))).await;
    }
    for event in 1..=events {
        let message = messages.next().await.ok_or_else(no_more)??;
        // The last is confirmed, and with it that all before it have arrived.
        let is_last = event == events;
        acknowledge(&message, if is_last { Delivery::ExactlyOnce } else { delivery }).await?;
    }
    Ok(())
}

fn no_more() -> anyhow::Error {
    anyhow!("no more messages")
}

async fn acknowledge(message: &Message, delivery: Delivery) -> Result<()> {
    let done = match delivery {
        Delivery::AtLeastOnce => message.ack().await,
        Delivery::ExactlyOnce => message.double_ack().await,
    };
    done.map_err(|error| anyhow!(error))
}
