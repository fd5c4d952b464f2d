//! The Python that our reference scripts run in: PyTorch and friends, pinned.

use std::path::PathBuf;

use crate::shell;

/// The pinned packages, relative to the root.
const REQUIREMENTS: &str = "xtask/peers/requirements.txt";

/// The interpreter `asked` for, or that of a virtual environment under the
/// target folder, made (and again when the pins change) by pip.
///
/// # Errors
/// If there is no Python, or pip cannot install the packages.
pub(crate) fn python(asked: Option<String>) -> anyhow::Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.into());
    }
    let folder = shell::target_dir()?.join("peers").join("venv");
    let python = folder.join("bin").join("python");
    let stamp = folder.join("installed.txt");
    let wanted = std::fs::read_to_string(shell::root().join(REQUIREMENTS))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    shell::run(shell::command("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = shell::command(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]);
    shell::run(&mut pip)?;
    std::fs::write(&stamp, wanted)?;
    Ok(python)
}
