//! A publisher that runs beside a test, and remembers what was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

use super::Http;

/// See the module. Stops when dropped.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<Value>>>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Publisher {
    /// Publishes events in batches, in order, until there are none, it is stopped, or one is not
    /// taken.
    pub(crate) fn start(
        http: &Http,
        batch: usize,
        mut events: impl Iterator<Item = Value> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (told, counted, noted) =
            (Arc::clone(&stop), Arc::clone(&count), Arc::clone(&acknowledged));
        let http = http.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let chunk: Vec<Value> = events.by_ref().take(batch).collect();
                if chunk.is_empty() {
                    return None;
                }
                match http.try_publish("main", &chunk.iter().collect::<Vec<_>>()) {
                    Ok(answers) => {
                        assert_eq!(answers.len(), chunk.len());
                        noted.lock().unwrap().extend(answers);
                        counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    }
                    Err(why) => return Some(why),
                }
            }
            None
        });
        Self { stop, count, acknowledged, thread: Some(thread) }
    }

    /// Events acknowledged so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether it goes on.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops it. Gives every answer, and why it ended before it was stopped, if it did.
    pub(crate) fn end(mut self) -> (Vec<Value>, Option<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until it has nothing more to publish, or fails.
    pub(crate) fn join(&mut self) -> (Vec<Value>, Option<String>) {
        let thread = self.thread.take().expect("joined once");
        let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (std::mem::take(&mut *self.acknowledged.lock().unwrap()), ended)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
