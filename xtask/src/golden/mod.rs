//! `cargo xtask golden`: the fixtures that PyTorch makes, against the committed ones.

mod compare;
mod tensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::arguments::Arguments;
use crate::{peers, shell};

pub(crate) const HELP: &str = "\
Usage: cargo xtask golden [--check] [--only NAME] [--python PATH]

Runs each script xtask/golden/*.py (with a folder to write into) and puts what
it wrote over the committed fixtures of the same name, crates/*/tests/fixtures.
The scripts are written from the formulas and never see our own output.

The first run makes a virtual environment under target/peers with pinned
PyTorch, torchvision, NumPy and safetensors (xtask/peers/requirements.txt).

Options:
  --check        write nothing: compare by value, f64 within 1e-8 and f32 within
                 1e-4 of the tensor's largest element, integers exactly
  --only NAME    only the script NAME.py
  --python PATH  use this interpreter, which has the packages already

Example:
  cargo xtask golden --check
";

/// Where the scripts lie, relative to the root.
const SCRIPTS: &str = "xtask/golden";

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let check = arguments.flag("--check");
    let only = arguments.option("--only")?;
    let python = arguments.option("--python")?;
    arguments.finish()?;

    let scripts: Vec<PathBuf> = scripts()?
        .into_iter()
        .filter(|script| only.as_ref().is_none_or(|name| script.file_stem() == Some(name.as_ref())))
        .collect();
    anyhow::ensure!(!scripts.is_empty(), "no such script in {SCRIPTS}");
    let python = peers::python(python)?;
    let committed = committed_fixtures()?;

    let mut made = Vec::new();
    let mut n_different = 0;
    for script in &scripts {
        let name = script.file_stem().context("a script has a name")?;
        let out = shell::target_dir()?.join("golden").join(name);
        if out.exists() {
            std::fs::remove_dir_all(&out)?;
        }
        std::fs::create_dir_all(&out)?;
        // -B: no compiled modules among the sources.
        shell::run(shell::command(&python).arg("-B").arg(script).arg(&out))?;

        for file in files_below(&out)? {
            let name = file.strip_prefix(&out)?.to_path_buf();
            let fixture = committed.get(&name).with_context(|| {
                format!("no crate has the fixture `{}`: copy it to its owner first", name.display())
            })?;
            let verdict = compare::files(fixture, &file)?;
            let shown = fixture.strip_prefix(shell::root())?.display();
            match (verdict, check) {
                (None, _) => println!("same     {shown}"),
                (Some(why), true) => {
                    n_different += 1;
                    println!("DIFFERS  {shown}: {why}");
                }
                (Some(why), false) => {
                    std::fs::copy(&file, fixture)?;
                    println!("written  {shown}: {why}");
                }
            }
            made.push(name);
        }
    }
    if only.is_none() {
        for (name, path) in committed.iter().filter(|(name, _)| !made.contains(name)) {
            anyhow::ensure!(
                name.extension().is_none_or(|kind| kind != "safetensors"),
                "no script makes `{}`",
                path.display()
            );
        }
    }
    anyhow::ensure!(n_different == 0, "{n_different} fixtures differ from what the scripts make");
    Ok(())
}

/// Those in the folder itself; what several of them import lies in folders below it.
fn scripts() -> anyhow::Result<Vec<PathBuf>> {
    let folder = shell::root().join(SCRIPTS);
    let mut scripts = files_below(&folder)?;
    scripts.retain(|path| {
        path.parent() == Some(&folder) && path.extension().is_some_and(|kind| kind == "py")
    });
    Ok(scripts)
}

/// The committed fixtures by their path below `tests/fixtures`.
fn committed_fixtures() -> anyhow::Result<BTreeMap<PathBuf, PathBuf>> {
    let mut fixtures = BTreeMap::new();
    for path in shell::repository_files()? {
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        if let ["crates", _, "tests", "fixtures", name] = parts[..] {
            let twin = fixtures.insert(name.into(), shell::root().join(&path));
            anyhow::ensure!(twin.is_none(), "two crates have a fixture `{name}`");
        }
    }
    Ok(fixtures)
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}
