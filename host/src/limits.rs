//! Every bound that is not configuration, with its unit last in its name.

use crate::config::{ByteSize, TimeSpan};

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of an event id.
pub const ID_BYTES_MAX: usize = 255;
/// Bytes of an event source.
pub const SOURCE_BYTES_MAX: usize = 1024;
/// Bytes of an event type.
pub const TYPE_BYTES_MAX: usize = 255;
/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Bytes of a name: of state values, timers, calls, operations.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of an attribute name.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 20;
/// Attributes of one event, beside those with a field of their own.
pub const ATTRIBUTES_MAX: usize = 64;
/// Bytes of all attributes of one event together.
pub const ATTRIBUTES_BYTES_MAX: usize = 8 * 1024;
/// Bytes of all metadata of a message together, with some for each entry: that of an event that comes in
/// and is passed on has less.
pub const METADATA_BYTES_MAX: usize = 2 * ATTRIBUTES_BYTES_MAX;
/// Bytes that an entry of metadata counts beside its name and value: quotes, commas and brackets.
pub const METADATA_ENTRY_BYTES: usize = 8;
/// Bytes of the payload of one event.
pub const EVENT_DATA_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one state value.
pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the data of one timer.
pub const TIMER_DATA_BYTES_MAX: usize = 64 * 1024;
/// Names one listing returns.
pub const LIST_MAX: usize = 1000;
/// Bytes of events after which a page of a listing ends; the rest is behind its cursor.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of state and timers, about, that a rewind to a position carries over; with more the rewind waits, and
/// says so.
pub const REWIND_STATE_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Lifts of one event, one after the other.
pub const UPCAST_STEPS_MAX: usize = 64;
/// Lifted events of one bus that are kept for whoever gets the same one.
pub const UPCAST_CACHE_EVENTS_MAX: usize = 4096;
/// Bytes of these, about.
pub const UPCAST_CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Causes behind an emitted event.
pub const DEPTH_MAX: u8 = 64;
/// Bytes kept of a reason that a guest gives.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
/// Bytes kept of one log line of a guest.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Log lines kept of one delivery.
pub const LOG_LINES_MAX: usize = 256;
/// Bytes of the name of a function of a guest: each trap copies those on its stack.
pub const FUNCTION_NAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes kept of a guest's call stack.
pub const BACKTRACE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of state a stdio module can be handed: it gets all that its key has.
pub const STDIO_STATE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Shortest delay before another attempt that a guest gets, whatever it asks for.
pub const RETRY_AFTER_MS_MIN: u64 = 10;
/// Longest delay a guest may ask for.
pub const RETRY_AFTER_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// State writes, timer changes and calls of one delivery, each: what their bytes alone do not bound.
pub const EFFECTS_MAX: usize = 10_000;
/// Pending timers of a plugin, unless its manifest says otherwise. Each takes about 130 bytes of
/// memory; its data stays in the log.
pub const TIMERS_PENDING_DEFAULT: usize = 2_000_000;
/// The most pending timers that a manifest may allow.
pub const TIMERS_PENDING_MAX: u64 = 1_000_000_000;
/// Bytes of the URL of a call.
pub const URL_BYTES_MAX: usize = 8 * 1024;
/// Bytes kept of the body of an answer to a call.
pub const CALL_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the headers of an answer to a call.
pub const CALL_ANSWER_HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Longest time until a call has a connection.
pub const CALL_CONNECT_MS_MAX: u32 = 10_000;
/// Attempts that a call gets in a run of the host before it is given up, however late it is.
pub const CALL_ATTEMPTS_MIN: u32 = 3;
/// Longest time that a server's `Retry-After` is followed.
pub const CALL_RETRY_AFTER_MS_MAX: u64 = 60 * 60 * 1000;
/// Calls of one plugin that are being sent at a time.
pub const CALLS_SENDING_MAX: usize = 16;
/// Calls of one bus that are being sent at a time.
pub const CALLS_SENDING_BUS_MAX: usize = 128;
/// Calls of one plugin that are not answered: beyond it its deliveries wait.
pub const CALLS_OPEN_MAX: usize = 100_000;
/// The same on a memory bus, which keeps their requests in memory.
pub const CALLS_OPEN_MEMORY_MAX: usize = 1000;
/// Answers to calls that a memory bus takes though it is full; more only where it would be full for good.
pub const ANSWERS_OVER_MAX: usize = CALLS_OPEN_MEMORY_MAX;
/// Direct requests of one plugin that are being sent at a time, also for deliveries that have ended.
pub const DIRECT_SENDING_MAX: usize = 64;
/// Direct requests of one delivery.
pub const DIRECT_REQUESTS_MAX: u32 = 64;
/// Direct requests of one delivery that are being sent at a time.
pub const DIRECT_AT_A_TIME_MAX: usize = 8;
/// Bytes of the body of an answer to a direct request.
pub const DIRECT_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all answers to the direct requests of one delivery, their headers among them.
pub const DIRECT_ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes, about, that the headers of a direct request take in memory.
pub const DIRECT_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Bytes that a guest may write at a time into the body of a direct request.
pub const DIRECT_CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 8 * 1024;
/// Longest time one attempt of a call may take.
pub const CALL_TIMEOUT_MS_MAX: u32 = 60_000;
/// What `limits.memory` of a manifest may be: all that a 32-bit guest can address.
pub const GUEST_MEMORY_MAX: ByteSize = ByteSize::gib(4);
/// What `limits.timeout` of a manifest may be.
pub const GUEST_TIMEOUT_MAX: TimeSpan = TimeSpan::from_minutes(10);
/// What `limits.output` of a manifest may be: one delivery's effects are one commit.
pub const GUEST_OUTPUT_MAX: ByteSize = ByteSize::mib(16);
/// What `limits.fuel` and `limits.fuel-per-second` of a manifest may be.
pub const GUEST_FUEL_MAX: u64 = 1_000_000_000_000;
/// What `limits.emits` of a manifest may be.
pub const GUEST_EMITS_MAX: u32 = 100_000;
/// What `limits.rate` of a manifest may be, also of a prefix.
pub const RATE_MAX: u32 = 1_000_000;
/// Prefixes with limits in one manifest.
pub const PREFIXES_MAX: usize = 64;
/// What `run.workers` of a manifest may be.
pub const WORKERS_MAX: u32 = 1024;
/// What `run.in-flight` of a manifest may be.
pub const IN_FLIGHT_MAX: u32 = 1_000_000;
/// What `run.waiting-max` of a manifest may be.
pub const WAITING_MAX: u32 = 100_000_000;
/// What `run.shadow` of a manifest may be.
pub const SHADOW_MAX: u32 = 1_000_000;
/// What `retry.attempts-fault` of a manifest may be.
pub const ATTEMPTS_FAULT_MAX: u32 = 1000;
/// What `http.body-max` of the configuration may be.
pub const BODY_MAX: ByteSize = ByteSize::gib(1);
/// Least `compile.memory` of the configuration.
pub const COMPILE_MEMORY_MIN: ByteSize = ByteSize::mib(64);
/// What `compile.memory` of the configuration may be.
pub const COMPILE_MEMORY_MAX: ByteSize = ByteSize::gib(64);
/// Least `compile.time` of the configuration.
pub const COMPILE_TIME_MIN: TimeSpan = TimeSpan::from_secs(1);
/// What `compile.time` of the configuration may be.
pub const COMPILE_TIME_MAX: TimeSpan = TimeSpan::from_hours(1);
/// Least `compile.module-max` of the configuration.
pub const MODULE_MIN: ByteSize = ByteSize::kib(1);
/// What `compile.module-max` of the configuration may be.
pub const MODULE_MAX: ByteSize = ByteSize::gib(1);
/// Buses of one host.
pub const BUSES_MAX: usize = 64;
/// Least `dedup` of a durable bus.
pub const DEDUP_MIN: TimeSpan = TimeSpan::from_secs(1);
/// What `dedup` of a durable bus may be.
pub const DEDUP_MAX: TimeSpan = TimeSpan::from_days(365);
/// What `dedup-max` of a durable bus may be.
pub const DEDUP_IDS_MAX: u64 = 1_000_000_000;
/// What `keep-free` of a durable bus may be.
pub const KEEP_FREE_MAX: ByteSize = ByteSize::gib(1024 * 1024);
/// Least `checkpoint-every` of a durable bus: one costs two syncs and a rename.
pub const CHECKPOINT_EVERY_MIN: ByteSize = ByteSize::kib(64);
/// What `checkpoint-every` of a durable bus may be.
pub const CHECKPOINT_EVERY_MAX: ByteSize = ByteSize::gib(1024);
/// What `capacity` of a memory bus may be.
pub const BUS_CAPACITY_MAX: u32 = 16 * 1024 * 1024;
/// Changes of the plugins folder that wait to be taken.
pub const PLUGIN_CHANGES_MAX: usize = 64;
/// Bytes of a manifest.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
/// Commands with an `Idempotency-Key` that a bus remembers: about 150 bytes each.
pub const COMMANDS_KEPT_MAX: usize = 500_000;
/// Milliseconds that it remembers them.
pub const COMMANDS_KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// Bytes of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Bytes of the body of a command or a query.
pub const REQUEST_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX;
/// Commands of one bus that clients wait for at a time.
pub const COMMANDS_WAITING_MAX: usize = 4096;
/// Milliseconds that a client waits for the answer to a command, at most. The command goes on.
pub const COMMAND_ANSWER_MS_MAX: u64 = 30_000;
/// Milliseconds from its first attempt in which a command that asks for it is tried again.
pub const COMMAND_RETRY_MS_MAX: u64 = 10_000;
/// Events that a plugin may have to read before a command without the command being refused.
pub const COMMAND_LAG_EVENTS_MAX: u64 = 10_000;
/// Deliveries of its key that may stand before a command without the command being refused.
pub const COMMAND_KEY_LAG_MAX: u64 = 1000;
/// Milliseconds that a key may have to wait for another attempt without commands being refused.
pub const COMMAND_KEY_WAIT_MS_MAX: u64 = 1000;
/// Queries of one plugin that run at a time.
pub const QUERIES_RUNNING_MAX: usize = 8;
/// Queries of one plugin under way, those that wait among them.
pub const QUERIES_WAITING_MAX: usize = 1024;
/// Milliseconds that a query waits for a position, at most.
pub const QUERY_WAIT_MS_MAX: u64 = 10_000;
/// Keys that one query holds on to while it goes through them.
pub const QUERY_KEYS_KEPT_MAX: usize = 100_000;
/// Events of one published batch.
pub const BATCH_EVENTS_MAX: usize = 10_000;
/// Bytes of one commit group, unless a single commit is larger.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a segment is zeroed ahead of its end.
pub const SEGMENT_ZEROED_AHEAD_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes that are zeroed at a time: one sync carries them along, and everybody in the group waits.
pub const SEGMENT_ZEROED_STEP_BYTES: u64 = 512 * 1024;
/// A new segment claims no more than one in so many bytes that are free: a whole one could leave a
/// small disk with less than what stops publishers.
pub const SEGMENT_FREE_SHARE: u64 = 4;
/// Bytes of recent frames kept in memory for consumers that keep up. For each event some 80 bytes more,
/// and for one that a consumer wanted some 400.
pub const TAIL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of buffers that the readers of a log leave for those who read next.
pub const READ_BUFFERS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of written frames that may wait for the index until a thread is woken that enters them.
pub const INDEX_BEHIND_BYTES: usize = 256 * 1024;
/// Bytes of written frames that wait for the index at most: beyond it the writer enters them itself, and
/// what is published waits for that.
pub const INDEX_BEHIND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Index files that one log has open at a time; where many logs share few files, each has fewer.
pub const INDEX_FILES_OPEN_MAX: usize = 64;
/// Bytes of events that one plugin has in memory.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes waiting in the ingest lane before publishers get `queue_full`.
pub const INGEST_LANE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes waiting in the effects lane before deliveries wait.
pub const EFFECTS_LANE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Milliseconds that wall and log time may be apart before the log stops drawing near.
pub const CLOCK_STEP_MS_MAX: u64 = 60_000;
/// Milliseconds that the wall clock may be behind the log at start.
pub const CLOCK_GAP_MS_MAX: u64 = 60 * 60 * 1000;
/// Bytes of keyed state that a durable bus keeps in memory; the rest is in its cold store.
pub const STATE_HOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Deliveries that a version runs beside the one that serves, at the same time.
pub const SHADOW_TASKS_MAX: u32 = 64;
/// Bytes of keyed state that a replay of past deliveries keeps in memory.
pub const REPLAY_STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of frames that a replay keeps in memory, to find the inputs of what it reads.
pub const REPLAY_FRAMES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Replays of past deliveries at the same time.
pub const REPLAYS_MAX: usize = 2;
/// Deliveries of one replay at the same time.
pub const REPLAY_TASKS_MAX: usize = 4;
/// Differences that one replay tells in words.
pub const REPLAY_DIFFERENCES_MAX: usize = 1000;
/// Timers of a plugin that fire in one go.
pub const FIRES_BATCH_MAX: usize = 512;
/// Bytes of one commit of fires, unless a single one is larger.
pub const FIRES_BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Fires of a plugin that stand in the log and were not read by it yet.
pub const FIRES_AHEAD_MAX: usize = 1024;
/// Bytes of a chunk of a checkpoint, about; a single value may be larger.
pub const CHECKPOINT_CHUNK_BYTES: usize = 1024 * 1024;
/// Bytes of a checkpoint between two syncs, so that the log's own syncs never wait for many.
pub const CHECKPOINT_SYNC_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes that a checkpoint leaves free on the disk: more than what stops publishers.
pub const CHECKPOINT_FREE_BYTES_MIN: u64 = 128 * 1024 * 1024;
/// Bytes that the disk must have free for keys to move out of memory: more than what stops checkpoints, which
/// come out of memory, too.
pub const COLD_FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;

/// Least size of a log segment: that of a commit group.
pub const SEGMENT_MIN: ByteSize = ByteSize::mib(4);
/// What `segment` of a durable bus may be.
pub const SEGMENT_MAX: ByteSize = ByteSize::gib(16);

const _: () = assert!(SEGMENT_MIN.bytes() >= GROUP_BYTES_MAX as u64);
const _: () = assert!(EVENT_DATA_BYTES_MAX < GROUP_BYTES_MAX);
const _: () = assert!(CALL_ANSWER_BYTES_MAX <= EVENT_DATA_BYTES_MAX);
const _: () = assert!(STATE_VALUE_BYTES_MAX < GROUP_BYTES_MAX);
const _: () = assert!(SEGMENT_ZEROED_STEP_BYTES < SEGMENT_ZEROED_AHEAD_BYTES);
const _: () = assert!(GROUP_BYTES_MAX < INGEST_LANE_BYTES_MAX);
