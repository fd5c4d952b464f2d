//! Progress on stderr: a bar on a terminal, a line an epoch elsewhere.

use std::{
    io::IsTerminal,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use metamask_report::duration;
use metamask_train::{
    Failure, Observer,
    init::InitReport,
    observer::{EpochReport, Plan, StepReport},
    shown,
};

use crate::{print::to_stderr, signals::Signals};

/// Shows a run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    is_terminal: bool,
    epochs: u64,
    batch_size: u64,
    chance_level: Option<f64>,
    started: Instant,
    steps_here: u64,
    loss: Option<f64>,
    signals: Signals,
}

/// Share of the newest loss in the one that is shown.
const SMOOTHING: f64 = 0.1;

impl Progress {
    pub fn new() -> Self {
        Self::with_signals(Signals::default())
    }

    /// One that stops the run when a signal comes.
    pub fn with_signals(signals: Signals) -> Self {
        Self {
            signals,
            bar: None,
            is_terminal: std::io::stderr().is_terminal(),
            epochs: 0,
            batch_size: 0,
            chance_level: None,
            started: Instant::now(),
            steps_here: 0,
            loss: None,
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prints above the bar.
    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| to_stderr(line)),
            None => to_stderr(line),
        }
    }
}

impl Observer for Progress {
    fn started(&mut self, plan: &Plan<'_>) {
        self.epochs = plan.epochs;
        self.batch_size = plan.batch_size;
        self.chance_level = plan.chance_level;
        self.started = Instant::now();
        self.line(&format!(
            "{}: {} epochs of {} steps, batch {}, into {}",
            plan.data,
            plan.epochs,
            plan.steps_per_epoch,
            plan.batch_size,
            shown(plan.folder)
        ));
        if plan.first_step > 0 {
            self.line(&format!("resuming at step {}", plan.first_step));
        }
        if self.is_terminal {
            let target = ProgressDrawTarget::stderr_with_hz(5);
            let total = plan.epochs * plan.steps_per_epoch;
            let bar = ProgressBar::with_draw_target(Some(total), target);
            bar.set_style(style("{prefix} {wide_bar} {msg}"));
            bar.set_position(plan.first_step);
            bar.set_prefix(format!(
                "epoch {}/{}",
                1 + plan.first_step / plan.steps_per_epoch,
                plan.epochs
            ));
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, report: &StepReport) {
        self.steps_here += 1;
        let loss = match self.loss {
            None => report.base_loss,
            Some(loss) => loss + SMOOTHING * (report.base_loss - loss),
        };
        self.loss = Some(loss);
        let Some(bar) = &self.bar else { return };
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = (self.steps_here * self.batch_size) as f64 / elapsed;
        let steps_left = bar.length().unwrap_or(report.step).saturating_sub(report.step);
        let left = steps_left as f64 * elapsed / self.steps_here as f64;
        bar.set_prefix(format!("epoch {}/{}", report.epoch, self.epochs));
        bar.set_message(format!(
            "loss {loss:.3}{}  {rate:.0} images/s  {} left",
            chance(self.chance_level),
            duration(left)
        ));
        bar.set_position(report.step);
    }

    fn epoch(&mut self, report: &EpochReport, images_per_s: f64) {
        if self.is_terminal {
            return;
        }
        let mask = match (report.mask_min, report.mask_max) {
            (Some(min), Some(max)) => format!("  mask {min:.3} to {max:.3}"),
            _ => String::new(),
        };
        self.line(&format!(
            "epoch {}/{}  loss {:.3}{}{mask}  rank {:.1}  {images_per_s:.0} images/s",
            report.epoch,
            self.epochs,
            report.base_loss,
            chance(report.chance_level),
            report.dimensions.effective_rank,
        ));
    }

    fn saved(&mut self, _checkpoint: &Path) {}

    fn rejected(&mut self, checkpoint: &Failure) {
        self.line(&format!("warning: {}; the one before is used", checkpoint.message));
    }

    fn is_interrupted(&self) -> bool {
        self.signals.came()
    }

    fn initialised(&mut self, report: &InitReport) {
        self.line(&format!("{}: weights to start from", shown(Path::new(&report.file))));
        let width = report.tensors.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, fate) in &report.tensors {
            // The file's names may hold anything.
            let name = shown(Path::new(name));
            self.line(&format!("  {name:width$}  {fate}"));
        }
    }

    fn warned(&mut self, warning: &str, help: &str) {
        self.line(&format!("warning: {warning}\n  help: {help}"));
    }

    fn evaluating(&mut self, what: &str) {
        if !self.is_terminal {
            return;
        }
        let bar = self.bar.get_or_insert_with(ProgressBar::no_length);
        bar.set_style(style("{spinner} {msg}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message(format!("evaluating: {what}"));
    }

    fn fine_tuning(&mut self, what: &str, steps: (usize, usize), loss: f64) {
        let (done, all) = steps;
        self.loss = match self.loss.filter(|_| done > 1) {
            None => Some(loss),
            Some(mean) => Some(mean + SMOOTHING * (loss - mean)),
        };
        let loss = self.loss.unwrap_or(loss);
        if !self.is_terminal {
            if let Some(tenth) = tenth(steps) {
                self.line(&format!(
                    "fine-tuning {what}: {tenth}0 % of {all} steps, loss {loss:.3}"
                ));
            }
            return;
        }
        if done == 1 {
            self.finish();
            let target = ProgressDrawTarget::stderr_with_hz(5);
            let bar = ProgressBar::with_draw_target(Some(all as u64), target);
            bar.set_style(style("fine-tuning {prefix} {wide_bar} {msg}  {eta} left"));
            bar.set_prefix(what.to_owned());
            self.bar = Some(bar);
        }
        let Some(bar) = &self.bar else { return };
        bar.set_message(format!("loss {loss:.3}"));
        bar.set_position(done as u64);
        if done == all {
            self.finish();
        }
    }
}

/// The tenth of the whole that ends with this step.
fn tenth((done, all): (usize, usize)) -> Option<usize> {
    let tenths = |done: usize| 10 * done / all.max(1);
    (tenths(done) > tenths(done.saturating_sub(1))).then(|| tenths(done))
}

/// What a loss is beside: where it begins for a network that knows nothing.
fn chance(level: Option<f64>) -> String {
    level.map_or_else(String::new, |level| format!(" (chance {level:.3})"))
}

/// Counts off the parts of something long, on a terminal.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    pub fn new(parts: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(parts), ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {pos}/{len} {wide_bar} {eta} left"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub fn advance(&self) {
        self.0.inc(1);
    }

    /// A line of its own where there is no terminal.
    pub fn say(&self, line: &str) {
        if self.0.is_hidden() {
            to_stderr(line);
        }
    }

    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}
