//! Every bound that is not configuration, with its unit last in its name.

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
/// Bytes of the payload of one event.
pub const EVENT_DATA_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one state value.
pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the data of one timer.
pub const TIMER_DATA_BYTES_MAX: usize = 64 * 1024;
/// Names one listing returns.
pub const LIST_MAX: usize = 1000;
/// Bytes of events after which a page of a listing ends.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Causes behind an emitted event.
pub const DEPTH_MAX: u8 = 64;
/// Bytes kept of a reason that a guest gives.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
/// Bytes kept of one log line of a guest.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Log lines kept of one delivery.
pub const LOG_LINES_MAX: usize = 256;
/// Longest delay a guest may ask for.
pub const RETRY_AFTER_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Events of one published batch.
pub const BATCH_EVENTS_MAX: usize = 10_000;
/// Bytes of one commit group, unless a single commit is larger.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a segment is zeroed ahead of its end.
pub const SEGMENT_ZEROED_AHEAD_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes of recent frames kept in memory for consumers that keep up.
pub const TAIL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes waiting in the ingest lane before publishers get `queue_full`.
pub const INGEST_LANE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes waiting in the effects lane before deliveries wait.
pub const EFFECTS_LANE_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(EVENT_DATA_BYTES_MAX < GROUP_BYTES_MAX);
const _: () = assert!(STATE_VALUE_BYTES_MAX < GROUP_BYTES_MAX);
const _: () = assert!(GROUP_BYTES_MAX < INGEST_LANE_BYTES_MAX);
