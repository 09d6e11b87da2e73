//! What a module needs of the grants of its plugin, before it is put to work.

use std::sync::Arc;

use super::Plugins;
use super::install::Candidate;
use crate::calls::Direct;
use crate::wasm::{Invoker, Outside};

impl Plugins {
    /// Whether a candidate is granted what its module imports.
    ///
    /// # Errors
    /// The first grant that is missing, in words that say where to write it.
    pub(super) fn check_grants(candidate: &Candidate) -> Result<(), String> {
        let Candidate { name, module, manifest, .. } = candidate;
        // Both sides have been heard: what stands here is what both grant.
        let is_granted = |grant: &str| grant == "grants.http" && !manifest.grants.http.is_empty();
        match module.needed().find(|needed| !is_granted(needed.grant)) {
            Some(needed) => {
                Err(needed.to_string().replace("plugins.NAME", &format!("plugins.{name}")))
            }
            None => Ok(()),
        }
    }

    /// Whether the state of a candidate can be made again from its events.
    ///
    /// # Errors
    /// It depends on answers that nobody has any more, in words.
    pub(super) fn check_rebuilds(candidate: &Candidate) -> Result<(), String> {
        if candidate.module.asks_outside() {
            let why = "its module asks outside with `wasi:http`: the answers are not recorded, so \
                       its state cannot be rebuilt from its events";
            return Err(why.to_owned());
        }
        Ok(())
    }

    /// Who sends what a candidate asks outside and waits for.
    pub(super) fn outside(&self, candidate: &Candidate) -> Option<Arc<dyn Outside>> {
        let Candidate { module, manifest, .. } = candidate;
        let is_granted = module.asks_outside() && !manifest.grants.http.is_empty();
        is_granted.then(|| {
            let secrets = self.means.config.secrets.clone();
            Arc::new(Direct::new(manifest.grants.clone(), secrets)) as Arc<dyn Outside>
        })
    }
}
