//! Whether a module and its manifest go together: what loads, and still does not do what was meant.

use super::{ModuleReport, bytes_in_words};
use crate::plugin::{GrantName, Manifest};
use crate::wasm::shape::Verdict;

/// Steps in which a larger `limits.memory` is proposed.
const MEMORY_STEP_BYTES: u64 = 16 * 1024 * 1024;

impl ModuleReport {
    /// Adds what there is to say about the manifest of a module that is understood.
    pub(super) fn fit(&mut self, manifest: &Manifest) {
        let exports = |name: &str| self.exports.contains(&name);
        let mut notes = Vec::new();
        if exports("handler") {
            self.manifest.push(events(manifest));
        } else if !manifest.subscribe.types.is_empty() {
            notes.push(
                "its manifest subscribes to events, but it exports no `handler`: it gets none"
                    .to_owned(),
            );
        }
        match (exports("upcaster"), manifest.upcast.is_empty()) {
            (true, true) => notes.push(
                "lifts old events for every plugin of its bus: `[upcast]` of its manifest must list \
                 the types and the versions they are lifted from, as in `\"order.created\" = [1]`"
                    .to_owned(),
            ),
            (false, false) => notes.push(
                "its manifest has `[upcast]`, but it exports no `upcaster`: nothing is lifted"
                    .to_owned(),
            ),
            _ => {}
        }
        let limit = manifest.limits.memory.bytes();
        if let Some(least) = self.memory.map(|memory| memory.minimum_bytes).filter(|n| *n > limit) {
            let enough = least.div_ceil(MEMORY_STEP_BYTES).saturating_mul(MEMORY_STEP_BYTES);
            notes.push(format!(
                "its memory starts at {}, above `limits.memory` ({}): write `memory = \"{}MiB\"` or \
                 more under `[limits]` of its manifest, or every delivery ends as `memory`",
                bytes_in_words(least),
                bytes_in_words(limit),
                enough >> 20
            ));
        }
        // Who waits for answers of servers is told more about that.
        let told = self.imports.iter().any(|i| matches!(i.verdict, Verdict::NeedsGrant { .. }));
        if !told {
            notes.extend(asks(manifest));
        }
        notes.extend(manifest.warnings());
        self.notes.extend(notes);
    }
}

/// Which events it gets.
fn events(manifest: &Manifest) -> String {
    let subscribe = &manifest.subscribe;
    let mut line = match subscribe.types.as_slice() {
        [] => "gets every published event".to_owned(),
        types => format!("gets {}", quoted(types)),
    };
    line += &format!(" of the bus `{}`", subscribe.bus());
    if !subscribe.sources.is_empty() {
        line += &format!(" from {}", quoted(&subscribe.sources));
    }
    for (at, (name, value)) in subscribe.attributes.iter().enumerate() {
        let word = if at == 0 { "where" } else { "and" };
        line += &format!(" {word} `{name}` is {value:?}");
    }
    if let Some(start) = &subscribe.start {
        line += &format!(", beginning at `{start}`");
    }
    line
}

fn quoted<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    format!("`{}`", names.join("`, `"))
}

/// What the operator has to allow.
fn asks(manifest: &Manifest) -> Vec<String> {
    let grants = &manifest.grants;
    let names = |names: &[GrantName]| {
        names.iter().map(|name| format!("{:?}", name.as_str())).collect::<Vec<_>>()
    };
    let lists = [
        ("http", grants.http.iter().map(|host| format!("\"{host}\"")).collect()),
        ("env", names(&grants.env)),
        ("secrets", names(&grants.secrets)),
    ];
    let asked = lists.into_iter().filter(|(_, names)| !names.is_empty());
    asked
        .map(|(grant, names)| {
            let names = names.join(", ");
            format!(
                "its manifest asks for `grants.{grant}` ({names}): granted once the operator writes \
                 `allow.{grant} = [{names}]` under `[plugins.NAME]` of `tidegate.toml`; `dev` grants it"
            )
        })
        .collect()
}
