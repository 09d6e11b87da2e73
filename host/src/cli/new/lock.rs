//! Cuts the lock file of this repository down to what a new project needs, so that it builds with
//! the versions that were tested, also where there is no network but a warm cache.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Lock {
    version: u32,
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize, Serialize)]
struct Package {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dependencies: Vec<String>,
}

/// The packages named and all they need. None where `lock` cannot be read: cargo then finds versions
/// by itself.
pub(super) fn cut(lock: &str, roots: &[&str]) -> Option<String> {
    let lock: Lock = toml::from_str(lock).ok()?;
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, package) in lock.package.iter().enumerate() {
        by_name.entry(&package.name).or_default().push(index);
    }
    let mut kept = BTreeSet::new();
    let mut waiting: Vec<&str> = roots.to_vec();
    while let Some(dependency) = waiting.pop() {
        // `name`, or `name version` where there are several.
        let (name, version) = match dependency.split_once(' ') {
            Some((name, rest)) => (name, rest.split(' ').next()),
            None => (dependency, None),
        };
        for &index in by_name.get(name).into_iter().flatten() {
            let Some(package) = lock.package.get(index) else { continue };
            if version.is_none_or(|version| version == package.version) && kept.insert(index) {
                waiting.extend(package.dependencies.iter().map(String::as_str));
            }
        }
    }
    let version = lock.version;
    let package = lock.package.into_iter().enumerate();
    let package = package.filter(|(index, _)| kept.contains(index)).map(|(_, p)| p).collect();
    toml::to_string(&Lock { version, package }).ok()
}
