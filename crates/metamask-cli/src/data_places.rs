//! Where data sets are looked for and kept: the environment's share in it, and
//! how progress is shown.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use metamask_data::{Event, Places, Reporter, Unit};

use crate::print::to_stderr;

/// The places of a command that was given `--data-dir` and `--offline`, or not.
pub(crate) fn of(data_dir: Option<PathBuf>, offline: bool) -> anyhow::Result<Places> {
    let places = Places {
        data_dir,
        cache_dir: cache_dir(),
        hub_cache_dir: hub_cache_dir(),
        report: reporter(),
        ..Places::default()
    };
    #[cfg(feature = "hub")]
    let places = Places { network: network(offline)?, ..places };
    #[cfg(not(feature = "hub"))]
    let _ = offline; // There is no network in this build.
    Ok(places)
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn caches() -> Option<PathBuf> {
    variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))
}

/// `METAMASK_CACHE`, or `metamask` among the user's caches.
fn cache_dir() -> Option<PathBuf> {
    variable("METAMASK_CACHE").or_else(|| Some(caches()?.join("metamask")))
}

/// `HF_HOME`, or where huggingface_hub has it otherwise.
fn hub_home() -> Option<PathBuf> {
    variable("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}

fn hub_cache_dir() -> Option<PathBuf> {
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(hub_home()?.join("hub")))
}

/// What `HF_ENDPOINT`, `HF_TOKEN` and the token's file say; `None` offline,
/// which `HF_HUB_OFFLINE` asks for, too.
#[cfg(feature = "hub")]
fn network(offline: bool) -> anyhow::Result<Option<metamask_data::hub::Network>> {
    use metamask_data::hub::{ENDPOINT, Network, Secret};
    use metamask_train::Failure;

    let is_on = |name| variable(name).is_some_and(|value| value != *"0");
    if offline || is_on("HF_HUB_OFFLINE") {
        return Ok(None);
    }
    let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
    let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let file = variable("HF_TOKEN_PATH").or_else(|| Some(hub_home()?.join("token")));
    let kept = || file.and_then(|path| std::fs::read_to_string(path).ok());
    let token = text("HF_TOKEN").or_else(kept).filter(|token| !token.trim().is_empty());
    let token = token.map(|token| Secret::new(&token)).transpose();
    let token = token.map_err(|error| Failure::from_data(error.into()))?;
    Ok(Some(Network { endpoint, token, ..Network::default() }))
}

/// Shows what a load or a download is doing: a bar on a terminal, lines elsewhere.
fn reporter() -> Reporter {
    let is_terminal = std::io::stderr().is_terminal();
    let shown: Mutex<Option<ProgressBar>> = Mutex::new(None);
    Reporter::new(move |event| {
        let mut bar = shown.lock().expect("nothing panics with the lock");
        match event {
            Event::Started { what, total, unit } if is_terminal => {
                let target = ProgressDrawTarget::stderr_with_hz(5);
                let started = ProgressBar::with_draw_target(total, target);
                started.set_style(style(unit, total.is_some()));
                started.set_message(what);
                *bar = Some(started);
            }
            Event::Started { what, total, unit } => {
                let size =
                    total.map_or_else(String::new, |total| format!(", {}", amount(total, unit)));
                to_stderr(&format!("{what}{size}"));
            }
            Event::Advanced(n) => {
                if let Some(bar) = &*bar {
                    bar.inc(n);
                }
            }
            Event::Finished => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            Event::Note(line) => match &*bar {
                Some(bar) => bar.suspend(|| to_stderr(&format!("note: {line}"))),
                None => to_stderr(&format!("note: {line}")),
            },
        }
    })
}

fn style(unit: Unit, has_total: bool) -> ProgressStyle {
    let template = match (unit, has_total) {
        (Unit::Bytes, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Unit::Bytes, false) => "{msg} {spinner} {bytes} {bytes_per_sec}",
        (Unit::Images, true) => "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}",
        (Unit::Images, false) => "{msg} {spinner} {pos} {per_sec}",
    };
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

fn amount(n: u64, unit: Unit) -> String {
    match unit {
        Unit::Images => format!("{n} images"),
        Unit::Bytes => bytes(n),
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
