//! A report in words: a label and a value a line, the verdict last.

use std::fmt;

use super::{ImportReport, ModuleReport, bytes_in_words};
use crate::wasm::recognise::ModuleKind;
use crate::wasm::shape::Verdict;

/// Exports that are listed of a module with many.
const LISTED_MAX: usize = 8;

impl fmt::Display for ModuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what.unwrap_or("not a module this host knows");
        let kind = self.kind.map_or(what, ModuleKind::in_words);
        let text = if self.text { ", as text" } else { "" };
        writeln!(f, "kind     {kind}{text}")?;
        if !self.made_by.is_empty() {
            writeln!(f, "made by  {}", listed(&self.made_by))?;
        }
        writeln!(f, "digest   {}", self.digest)?;
        writeln!(f, "size     {}", bytes_in_words(self.size_bytes as u64))?;
        if self.kind.is_some() || self.what.is_some() {
            writeln!(f, "exports  {}", self.exports_in_words())?;
        }
        if let Some(memory) = self.memory {
            let most = memory.maximum_bytes.map(bytes_in_words);
            let most = most.unwrap_or_else(|| "`limits.memory`".to_owned());
            let least = bytes_in_words(memory.minimum_bytes);
            writeln!(f, "memory   from {least}, up to {most}")?;
        }
        if let Some(compile_ms) = self.compile_ms {
            writeln!(f, "compile  {compile_ms} ms")?;
        }
        write_imports(f, &self.imports)?;
        for (label, lines) in
            [("manifest", &self.manifest), ("note", &self.notes), ("problem", &self.problems)]
        {
            for line in lines {
                writeln!(f, "{label:<8} {line}")?;
            }
        }
        for line in &self.advice {
            writeln!(f, "to do    {line}")?;
        }
        f.write_str(if self.would_load() { "would be loaded" } else { "would be refused" })
    }
}

impl ModuleReport {
    fn exports_in_words(&self) -> String {
        if !self.exports.is_empty() {
            return self.exports.join(", ");
        }
        if self.other_exports.is_empty() {
            return "nothing".to_owned();
        }
        let listed = listed(&self.other_exports);
        // Whether it could be called is not known of what is broken.
        let judged = self.kind.is_some() || !self.advice.is_empty();
        if judged { format!("{listed}: nothing that this host calls") } else { listed }
    }
}

fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(LISTED_MAX).map(String::as_str).collect();
    let more = names.len().saturating_sub(LISTED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

fn write_imports(f: &mut fmt::Formatter<'_>, imports: &[ImportReport]) -> fmt::Result {
    let width = imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
    for (n, import) in imports.iter().enumerate() {
        let head = if n == 0 { "imports" } else { "" };
        writeln!(f, "{head:<8} {:<width$}  {}", import.name, short(&import.verdict))?;
    }
    Ok(())
}

/// The verdict in a column; why stands under `problem`.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Granted => "granted".to_owned(),
        Verdict::Empty => "linked, nothing behind it".to_owned(),
        Verdict::NeedsGrant { grant, .. } => format!("needs `{grant}`"),
        Verdict::Refused { .. } => "refused".to_owned(),
    }
}
