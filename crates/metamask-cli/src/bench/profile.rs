//! The steps of an encoder's passes, each with its time: as a table, and as a trace
//! for the viewers of browsers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metamask_ops::{Phase, StepView, Watcher};
use serde_json::{Value, json};

/// Keeps all steps that it sees, in the order in which they begin.
pub(super) struct Profile {
    started: Instant,
    spans: Mutex<Vec<Span>>,
}

/// A step that ran, or runs.
#[derive(Clone, Debug)]
pub(super) struct Span {
    name: String,
    kind: &'static str,
    phase: &'static str,
    multiply_adds: u64,
    bytes: u64,
    begin: Duration,
    length: Duration,
}

impl Profile {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), spans: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what it has seen.
    pub(super) fn clear(&self) {
        self.spans().clear();
    }

    /// Adds a span that no watcher sees, such as the whole iteration.
    pub(super) fn add(&self, name: &str, begin: Instant) {
        let span = Span {
            name: name.to_owned(),
            kind: "iteration",
            phase: "iteration",
            multiply_adds: 0,
            bytes: 0,
            begin: begin - self.started,
            length: begin.elapsed(),
        };
        self.spans().push(span);
    }

    /// The encoder's steps, put together.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for span in self.spans().iter().filter(|span| span.kind != "iteration") {
            let ms = span.length.as_secs_f64() * 1e3;
            for sum in [
                totals.phases.entry(span.phase).or_default(),
                totals.kinds.entry(span.kind).or_default(),
                totals.layers.entry((span.name.clone(), span.phase)).or_default(),
                &mut totals.all,
            ] {
                sum.ms += ms;
                sum.multiply_adds += span.multiply_adds;
                sum.bytes += span.bytes;
            }
        }
        totals
    }

    /// All spans as trace events (load the file in `chrome://tracing` or ui.perfetto.dev).
    pub(super) fn trace(&self) -> Value {
        let event = |span: &Span| {
            json!({
                "name": span.name,
                "cat": span.phase,
                "ph": "X",
                "ts": span.begin.as_secs_f64() * 1e6,
                "dur": span.length.as_secs_f64() * 1e6,
                "pid": 1,
                "tid": if span.kind == "iteration" { 1 } else { 2 },
                "args": {
                    "kind": span.kind,
                    "multiply-adds": span.multiply_adds,
                    "bytes": span.bytes,
                },
            })
        };
        let name = |tid: u32, name: &str| json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}});
        let mut events = vec![name(1, "iteration"), name(2, "encoder")];
        events.extend(self.spans().iter().map(event));
        json!({"traceEvents": events, "displayTimeUnit": "ms"})
    }
}

impl Watcher for Profile {
    fn begin(&self, step: &StepView<'_>) {
        let begin = self.started.elapsed();
        self.spans().push(Span {
            name: step.name.to_owned(),
            kind: step.kind,
            phase: phase_name(step.phase),
            multiply_adds: step.multiply_adds,
            bytes: step.bytes,
            begin,
            length: Duration::ZERO,
        });
    }

    fn end(&self) {
        let now = self.started.elapsed();
        if let Some(span) = self.spans().last_mut() {
            span.length = now - span.begin;
        }
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::BackwardData => "backward, data",
        Phase::BackwardWeight => "backward, weights",
        Phase::Tangent => "tangent",
    }
}

/// Sums of spans, by what they have in common.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) all: Sum,
    phases: BTreeMap<&'static str, Sum>,
    kinds: BTreeMap<&'static str, Sum>,
    layers: BTreeMap<(String, &'static str), Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) ms: f64,
    pub(super) multiply_adds: u64,
    bytes: u64,
}

impl Sum {
    /// GFLOP/s, a multiplication and an addition being two.
    pub(super) fn gflops(&self) -> f64 {
        2e-6 * self.multiply_adds as f64 / self.ms
    }

    /// GB/s of values read and written once.
    fn gigabytes(&self) -> f64 {
        1e-6 * self.bytes as f64 / self.ms
    }
}

impl Totals {
    /// Phases, kinds and layers, a step's share of them; the layers by time. `steps`
    /// is how many steps were seen, `peaks` GFLOP/s and GB/s of the machine.
    pub(super) fn table(&self, steps: usize, peaks: (f64, f64)) -> String {
        let mut text = String::new();
        let mut rows: Vec<(String, Sum)> = vec![];
        rows.extend(self.phases.iter().map(|(&name, &sum)| (name.to_owned(), sum)));
        self.write(&mut text, "phase of the encoder", &rows, steps, peaks);
        rows = self.kinds.iter().map(|(&name, &sum)| (name.to_owned(), sum)).collect();
        rows.sort_by(|a, b| b.1.ms.total_cmp(&a.1.ms));
        self.write(&mut text, "kind of layer", &rows, steps, peaks);
        let layer = |(name, phase): &(String, &str)| format!("{name}, {phase}");
        rows = self.layers.iter().map(|(key, &sum)| (layer(key), sum)).collect();
        rows.sort_by(|a, b| b.1.ms.total_cmp(&a.1.ms));
        self.write(&mut text, "layer", &rows, steps, peaks);
        text
    }

    fn write(
        &self,
        text: &mut String,
        title: &str,
        rows: &[(String, Sum)],
        steps: usize,
        (flops, bytes): (f64, f64),
    ) {
        let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0).max(title.len());
        let _ = writeln!(
            text,
            "\n{title:width$}  {:>9}  {:>6}  {:>8}  {:>7}  {:>6}  {:>7}",
            "ms a step", "share", "GFLOP/s", "of peak", "GB/s", "of copy"
        );
        for (name, sum) in rows {
            let (rate, bandwidth) = (sum.gflops(), sum.gigabytes());
            let products = match sum.multiply_adds {
                0 => [String::new(), String::new()],
                _ => [format!("{rate:.0}"), percent(rate / flops)],
            };
            let _ = writeln!(
                text,
                "{name:width$}  {:>9.2}  {:>6}  {:>8}  {:>7}  {bandwidth:>6.1}  {:>7}",
                sum.ms / steps as f64,
                percent(sum.ms / self.all.ms),
                products[0],
                products[1],
                percent(bandwidth / bytes),
            );
        }
    }

    pub(super) fn json(&self, steps: usize) -> Value {
        let entry = |sum: &Sum| {
            json!({
                "ms": sum.ms / steps as f64,
                "multiply_adds": sum.multiply_adds / steps as u64,
                "bytes": sum.bytes / steps as u64,
            })
        };
        let list = |(name, phase): &(String, &str), sum: &Sum| {
            let mut value = entry(sum);
            value["layer"] = json!(name);
            value["phase"] = json!(phase);
            value
        };
        json!({
            "phases": self.phases.iter().map(|(k, v)| (*k, entry(v))).collect::<BTreeMap<_, _>>(),
            "kinds": self.kinds.iter().map(|(k, v)| (*k, entry(v))).collect::<BTreeMap<_, _>>(),
            "layers": self.layers.iter().map(|(k, v)| list(k, v)).collect::<Vec<_>>(),
        })
    }
}

/// 0.123 as `12.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(profile: &Profile, name: &str, phase: Phase, multiply_adds: u64) {
        profile.begin(&StepView { name, kind: "conv2d", phase, multiply_adds, bytes: 10 });
        std::thread::sleep(Duration::from_millis(2));
        profile.end();
    }

    #[test]
    fn steps_are_put_together_by_what_they_share() {
        let profile = Profile::new();
        see(&profile, "gone", Phase::Forward, 1);
        profile.clear();
        let start = Instant::now();
        for _ in 0..2 {
            see(&profile, "conv1", Phase::Forward, 100);
            see(&profile, "conv1", Phase::BackwardWeight, 30);
        }
        profile.add("iteration", start);

        let totals = profile.totals();
        assert_eq!((totals.all.multiply_adds, totals.all.bytes), (260, 40));
        assert_eq!(totals.phases["forward"].multiply_adds, 200);
        assert_eq!(totals.layers[&("conv1".to_owned(), "backward, weights")].multiply_adds, 60);
        assert!(totals.all.ms >= 8.0, "the iteration is no step, each of four slept");
        let json = totals.json(2);
        assert_eq!(json["phases"]["forward"]["multiply_adds"], 100);

        let events = profile.trace();
        let events = events["traceEvents"].as_array().expect("a list");
        let steps: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(steps.len(), 5);
        let end = |e: &Value| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap();
        for (first, second) in steps[..4].iter().zip(&steps[1..4]) {
            assert!(end(first) <= second["ts"].as_f64().unwrap(), "one after the other");
        }
        assert!(end(steps[4]) >= end(steps[3]), "the iteration holds its steps");
    }
}
