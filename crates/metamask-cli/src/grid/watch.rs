//! Progress of a grid on stderr: a line for each job, and a bar on a terminal.

use std::{
    io::IsTerminal,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use metamask_report::duration;
use metamask_train::{
    Measure,
    grid::{
        Job, Record,
        run::{Failed, GridObserver, Outlook},
    },
    shown,
};

use crate::{print::to_stderr, signals::Signals};

/// How often the outlook is told where there is no terminal.
const EVERY: Duration = Duration::from_secs(300);

/// Shows a grid.
pub(super) struct Watch {
    bar: Option<ProgressBar>,
    signals: Signals,
    measure: Measure,
    told: Instant,
}

impl Watch {
    pub fn new(signals: Signals, measure: Measure) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(2));
            let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg}");
            bar.set_style(style.expect("the template is well-formed"));
            bar
        });
        Self { bar, signals, measure, told: Instant::now() }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| to_stderr(line)),
            None => to_stderr(line),
        }
    }
}

fn left(outlook: &Outlook) -> String {
    outlook.left_s.map_or_else(String::new, |seconds| format!(", {} left", duration(seconds)))
}

impl GridObserver for Watch {
    fn started(&mut self, job: &Job, resumes: bool) {
        let word = if resumes { "resumes" } else { "starts" };
        self.line(&format!("{word:9}{job}"));
    }

    fn finished(&mut self, job: &Job, record: &Record, outlook: &Outlook) {
        let percent = record.accuracy_percent(self.measure);
        let percent = percent.map_or_else(String::new, |percent| format!("{percent:.1} %, "));
        let took = duration(record.cost.training_s + record.cost.evaluation_s);
        let (ended, jobs) = (outlook.ended, outlook.jobs);
        self.line(&format!(
            "{:9}{job}  {percent}{took}; {ended} of {jobs}{}",
            "done",
            left(outlook)
        ));
    }

    fn failed(&mut self, job: &Job, failed: &Failed, log: &Path, outlook: &Outlook) {
        let (ended, jobs) = (outlook.ended, outlook.jobs);
        self.line(&format!(
            "{:9}{job}  {}: {}\n         log: {}; {ended} of {jobs}{}",
            "FAILED",
            failed.ended,
            failed.message,
            shown(log),
            left(outlook)
        ));
    }

    fn passed(&mut self, outlook: &Outlook) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(outlook.jobs as u64);
                bar.set_position(outlook.ended as u64);
                bar.set_message(format!("{} running{}", outlook.running, left(outlook)));
            }
            None if self.told.elapsed() > EVERY => {
                self.told = Instant::now();
                let (ended, jobs, running) = (outlook.ended, outlook.jobs, outlook.running);
                to_stderr(&format!("{ended} of {jobs}, {running} running{}", left(outlook)));
            }
            None => (),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.signals.came()
    }
}
