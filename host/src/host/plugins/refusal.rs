//! Why a module is not taken, who is told, and whether it is tried again.

use std::sync::Arc;
use std::time::Duration;

use super::{Plugins, lock};
use crate::api::view::{PluginState, ReloadResult, ReloadView, Timestamp};
use crate::bus::notes::Line;
use crate::event::Digest;
use crate::log::AppendError;
use crate::wasm::load::LoadError;

/// Why a module is not taken.
#[derive(Debug)]
pub(super) struct Refusal {
    /// In words for people.
    pub(super) why: String,
    /// It may be taken later as it is: what is missing is a file, a process or space on a disk.
    pub(super) may_pass: bool,
}

/// How long a module waits at least that may be taken later, and how many times what trying takes.
const AGAIN_MIN: Duration = Duration::from_secs(5);
const AGAIN_FACTOR: u32 = 10;

/// How long what failed is left alone, after an attempt that `took` so long.
pub(super) fn again_after(took: Duration) -> Duration {
    AGAIN_MIN.max(took * AGAIN_FACTOR)
}

impl Refusal {
    pub(super) const fn passing(why: String) -> Self {
        Self { why, may_pass: true }
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, may_pass: false }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let may_pass = matches!(error, AppendError::StorageFull { .. });
        Self { why: error.to_string(), may_pass }
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        let may_pass = matches!(error, LoadError::Compiler { .. } | LoadError::Cache(_));
        Self { why: error.to_string(), may_pass }
    }
}

impl Plugins {
    /// Notes that a module was not taken; what serves goes on.
    pub(super) fn refuse(&self, name: &str, digest: Option<Digest>, why: String) {
        tracing::warn!(plugin = name, why, "refused");
        self.means.metrics.reloaded(name, "refused");
        let at = self.means.clock.wall_ms();
        let mut entries = lock(&self.entries);
        let entry = entries.entry(name.to_owned()).or_default();
        entry.last_error = Some((at, why.clone()));
        entry.log.push(Line {
            at_ms: at,
            level: "error".to_owned(),
            message: format!("refused: {why}"),
            position: None,
            key: None,
            attempt: None,
        });
        if entry.runner.is_none() {
            entry.state = match entry.served_before {
                true => PluginState::Compiling,
                false => PluginState::Refused,
            };
            entry.reason = Some(why.clone());
        }
        let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
        entry.remember(ReloadView {
            digest,
            at: Timestamp(at),
            result: ReloadResult::Refused,
            error: Some(why),
            shadow: None,
        });
    }

    /// Tries once more in a while, after an attempt that `took` so long.
    pub(super) fn install_later(self: &Arc<Self>, name: &str, change: u64, took: Duration) {
        let (plugins, name) = (Arc::clone(self), name.to_owned());
        self.tasks.spawn(async move {
            tokio::time::sleep(again_after(took)).await;
            Box::pin(plugins.install(&name, change, true)).await;
        });
    }

    /// Drops the refusal of a module that comes last: tried again and again, it was refused once.
    pub(super) fn drop_refusal(&self, name: &str, digest: Digest) {
        if let Some(entry) = lock(&self.entries).get_mut(name) {
            entry.history.pop_front_if(|last| {
                last.result == ReloadResult::Refused && last.digest == digest.to_string()
            });
        }
    }
}
