//! What a change in the plugins folder, or an operator's command, means for the plugins of the log:
//! pure tables, performed by others.
//!
//! A plugin is an instance in the log, not a file. Its files may go and come back, run with an
//! older module than the file's, or turn up under another name; the rules here keep its state from
//! being lost or given to somebody else in each of these cases. What they decide on stands in the
//! log or in the folder, so that it is the same after a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::manifest::Manifest;
use super::source::Source;
use super::watch::Change;
use super::{InvalidName, check_name};
use crate::event::{Digest, InstanceId};

/// A plugin as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its identity in the log of its bus.
    pub instance: InstanceId,
    /// The module file's digest when it was last activated from the file; of a pinned plugin, when
    /// it was rolled back.
    pub file: Option<Digest>,
    /// Environment of the last activation; see [`Manifest::environment`].
    pub environment: Option<Digest>,
    /// The module it was rolled back to, until its file changes.
    pub pinned: Option<Digest>,
    /// Whether an operator or a failure paused it. Nothing here but a command changes that.
    pub paused: bool,
    /// Where its files are; none: they are gone.
    pub path: Option<PathBuf>,
}

/// Which plugin: the bus whose log it stands in, and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The bus.
    pub bus: String,
    /// The name.
    pub name: String,
}

/// Everything that decisions depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins {
    /// The plugins of all buses.
    pub registered: BTreeMap<Binding, Registered>,
    /// Files that look like a renamed plugin, with their module: they wait for a command.
    pub waiting: BTreeMap<Binding, Digest>,
}

/// What is to be done about a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Register a new instance, then activate the file's module.
    Register(Binding),
    /// Activate a module: the file's, or the pinned one where only the manifest changed.
    Reload {
        /// The plugin.
        instance: InstanceId,
        /// The module to run.
        module: Digest,
    },
    /// Activate the file's module, which ends the rollback. The activation is to be logged even if
    /// it is the module that runs: it is what tells that the pin is gone.
    Unpin {
        /// The plugin.
        instance: InstanceId,
        /// The module to run.
        module: Digest,
    },
    /// Run what was activated last, if it does not run already: nothing new is to be logged.
    Keep {
        /// The plugin.
        instance: InstanceId,
        /// The module to run.
        module: Digest,
    },
    /// The file has the module of a plugin whose file is gone: wait for `plugins rename OLD NEW` or
    /// `plugins resume NEW`.
    Waiting {
        /// The file's name.
        new: Binding,
        /// The name of the plugin that is gone.
        old_name: String,
    },
    /// Tell that the files are no version of the plugin; what ran keeps running.
    Refuse {
        /// The plugin.
        name: String,
        /// Why.
        why: String,
    },
    /// Tell that a second source for a name is refused.
    RefuseSecondSource {
        /// The plugin.
        name: String,
        /// The source that is refused.
        path: PathBuf,
        /// The source that stays.
        holder: PathBuf,
    },
    /// Stop the plugin; its state stays.
    Remove {
        /// The plugin.
        instance: InstanceId,
        /// Its bus.
        bus: String,
    },
    /// The file that waited is gone.
    StopWaiting(Binding),
    /// Tell of a path that cannot be a plugin.
    Warn {
        /// The path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Take back what was told of a path.
    Unwarn {
        /// The path.
        path: PathBuf,
    },
    /// Nothing to do.
    Nothing,
}

/// Why a command about a plugin is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No plugin has this name.
    #[error("there is no plugin `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The new name is not one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The new name is another plugin's.
    #[error("`{name}` is another plugin; forget it first: `tidegate plugins forget {name}`")]
    Taken {
        /// The name.
        name: String,
    },
    /// The plugin's own file is there.
    #[error("the file of `{name}` is there: `{}`; {todo}", path.display())]
    FileThere {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// What to do first.
        todo: &'static str,
    },
    /// There is no earlier module to go back to.
    #[error("`{name}` has run no other module; there is nothing to go back to")]
    NoEarlierModule {
        /// The name.
        name: String,
    },
    /// The plugin never ran this module.
    #[error("`{name}` never ran module {module}; see `tidegate plugins show {name}`")]
    NeverRan {
        /// The name.
        name: String,
        /// The module asked for.
        module: Digest,
    },
}

/// What resuming a plugin means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumption {
    /// The file that waited becomes a plugin of its own: see [`Decision::Register`].
    Register(Binding),
    /// Deliveries go on.
    Resume(InstanceId),
    /// It is not paused.
    Nothing,
}

/// One of several sources for a name that nobody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// The source.
    pub path: PathBuf,
    /// Its module; none: it cannot be read.
    pub digest: Option<Digest>,
    /// When the module was written, in nanoseconds since the Unix epoch.
    pub modified_ns: i128,
}

/// Which source holds a name: the one that ran last, else the oldest, else the first by path.
#[must_use]
pub fn pick_holder(contenders: &[Contender], last: Option<Digest>) -> Option<&Path> {
    let rank = |contender: &&Contender| {
        let ran = last.is_some() && contender.digest == last;
        (!ran, contender.digest.is_none(), contender.modified_ns, contender.path.clone())
    };
    contenders.iter().min_by_key(rank).map(|contender| contender.path.as_path())
}

impl Binding {
    /// The plugin `name` on `bus`.
    #[must_use]
    pub fn new(bus: &str, name: &str) -> Self {
        Self { bus: bus.to_owned(), name: name.to_owned() }
    }
}

impl Plugins {
    /// What a change means. `manifest` is the resolved manifest of a [`Change::Present`]; it may
    /// differ from what the author wrote.
    #[must_use]
    pub fn decide(&self, change: &Change, manifest: Option<&Manifest>) -> Vec<Decision> {
        match change {
            Change::Present(source) => {
                let manifest = manifest.unwrap_or(&source.manifest);
                self.decide_present(source, manifest)
            }
            Change::Removed { name } => self.decide_removed(name, None),
            Change::Broken { name, why, .. } => {
                vec![Decision::Refuse { name: name.clone(), why: why.clone() }]
            }
            Change::SecondSource { name, path, holder } => {
                let (name, path, holder) = (name.clone(), path.clone(), holder.clone());
                vec![Decision::RefuseSecondSource { name, path, holder }]
            }
            Change::Skipped { path, why } => {
                vec![Decision::Warn { path: path.clone(), why: why.clone() }]
            }
            Change::Cleared { path } => vec![Decision::Unwarn { path: path.clone() }],
            Change::ScanEnd => vec![Decision::Nothing],
        }
    }

    /// A plugin that moved to another bus leaves the one it was on: it is bound to (bus, name).
    fn decide_present(&self, source: &Source, manifest: &Manifest) -> Vec<Decision> {
        let binding = Binding::new(manifest.subscribe.bus(), &source.name);
        let mut decisions = self.decide_removed(&source.name, Some(&binding.bus));
        decisions.retain(|decision| *decision != Decision::Nothing);
        decisions.push(match self.registered.get(&binding) {
            Some(registered) => decide_registered(registered, source, manifest),
            None => match self.renamed_from(&binding, source.digest) {
                Some(old_name) => Decision::Waiting { new: binding, old_name },
                None => Decision::Register(binding),
            },
        });
        decisions
    }

    fn decide_removed(&self, name: &str, except_bus: Option<&str>) -> Vec<Decision> {
        let concerned =
            |binding: &Binding| binding.name == name && Some(binding.bus.as_str()) != except_bus;
        let registered = self
            .registered
            .iter()
            .filter(|(binding, registered)| concerned(binding) && registered.path.is_some())
            .map(|(binding, registered)| Decision::Remove {
                instance: registered.instance,
                bus: binding.bus.clone(),
            });
        let waiting = self.waiting.keys().filter(|binding| concerned(binding)).cloned();
        let mut decisions: Vec<Decision> =
            registered.chain(waiting.map(Decision::StopWaiting)).collect();
        if decisions.is_empty() {
            decisions.push(Decision::Nothing);
        }
        decisions
    }

    /// The plugin of the same bus whose file is gone and had this module; the youngest of several.
    fn renamed_from(&self, new: &Binding, digest: Digest) -> Option<String> {
        self.registered
            .iter()
            .filter(|(binding, _)| binding.bus == new.bus && binding.name != new.name)
            .filter(|(_, gone)| gone.path.is_none() && gone.file == Some(digest))
            .max_by_key(|(_, gone)| gone.instance)
            .map(|(binding, _)| binding.name.clone())
    }

    /// Files that waited and need not any more, because the plugin they look like came back or was
    /// forgotten: they are plugins of their own. To be asked after each change of the plugins.
    #[must_use]
    pub fn released(&self) -> Vec<Binding> {
        self.waiting
            .iter()
            .filter(|(binding, digest)| self.renamed_from(binding, **digest).is_none())
            .map(|(binding, _)| binding.clone())
            .collect()
    }

    /// `plugins rename OLD NEW`: the instances that go on under the new name, with the bus of each. A plugin
    /// that moved from one bus to another has one on both.
    ///
    /// # Errors
    /// [`Refusal`]: no such plugin, its file is still there, or the new name is no name or taken.
    pub fn rename(&self, old: &str, new: &str) -> Result<Vec<(String, InstanceId)>, Refusal> {
        check_name(new)?;
        let instances = self.without_file(old, "rename the file first")?;
        let is_taken = |bus: &str| self.registered.contains_key(&Binding::new(bus, new));
        if instances.iter().any(|(bus, _)| is_taken(bus)) {
            return Err(Refusal::Taken { name: new.to_owned() });
        }
        Ok(instances)
    }

    /// `plugins resume NAME`.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn resume(&self, binding: &Binding) -> Result<Resumption, Refusal> {
        if self.waiting.contains_key(binding) {
            return Ok(Resumption::Register(binding.clone()));
        }
        let registered = self.get(binding)?;
        Ok(if registered.paused {
            Resumption::Resume(registered.instance)
        } else {
            Resumption::Nothing
        })
    }

    /// `plugins rollback NAME`: the module to pin. `history` are the modules it ran, the last one
    /// last; `wanted` is one of them, or none for the one before the present one.
    ///
    /// # Errors
    /// [`Refusal`]: no such plugin, or no such module.
    pub fn rollback(
        &self,
        binding: &Binding,
        wanted: Option<Digest>,
        history: &[Digest],
    ) -> Result<(InstanceId, Digest), Refusal> {
        let registered = self.get(binding)?;
        let name = || binding.name.clone();
        let module = match wanted {
            Some(module) if history.contains(&module) => module,
            Some(module) => return Err(Refusal::NeverRan { name: name(), module }),
            None => {
                let present = history.last();
                let mut earlier = history.iter().rev().filter(|module| Some(*module) != present);
                *earlier.next().ok_or_else(|| Refusal::NoEarlierModule { name: name() })?
            }
        };
        Ok((registered.instance, module))
    }

    /// `plugins forget NAME`: the instances to forget, with the bus of each. A plugin that moved from one bus to
    /// another has one on both.
    ///
    /// # Errors
    /// [`Refusal`]: no such plugin, or its file is there, which would only register it anew.
    pub fn forget(&self, name: &str) -> Result<Vec<(String, InstanceId)>, Refusal> {
        self.without_file(name, "remove it first")
    }

    /// The instances of a name, none of which may have its file.
    fn without_file(
        &self,
        name: &str,
        todo: &'static str,
    ) -> Result<Vec<(String, InstanceId)>, Refusal> {
        let mut instances = Vec::new();
        for (binding, registered) in self.registered.iter().filter(|(b, _)| b.name == name) {
            if let Some(path) = registered.path.clone() {
                return Err(Refusal::FileThere { name: name.to_owned(), path, todo });
            }
            instances.push((binding.bus.clone(), registered.instance));
        }
        if instances.is_empty() {
            return Err(Refusal::Unknown { name: name.to_owned() });
        }
        Ok(instances)
    }

    fn get(&self, binding: &Binding) -> Result<&Registered, Refusal> {
        let unknown = || Refusal::Unknown { name: binding.name.clone() };
        self.registered.get(binding).ok_or_else(unknown)
    }
}

/// The table for a plugin whose files are there.
fn decide_registered(registered: &Registered, source: &Source, manifest: &Manifest) -> Decision {
    let instance = registered.instance;
    let runs = |module| registered.environment == Some(manifest.environment(module));
    match registered.pinned {
        Some(_) if registered.file != Some(source.digest) => {
            Decision::Unpin { instance, module: source.digest }
        }
        Some(pinned) if runs(pinned) => Decision::Keep { instance, module: pinned },
        Some(pinned) => Decision::Reload { instance, module: pinned },
        None if runs(source.digest) => Decision::Keep { instance, module: source.digest },
        None => Decision::Reload { instance, module: source.digest },
    }
}

#[cfg(test)]
mod tests;
