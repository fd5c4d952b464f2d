//! What a run's log says over time, by the names that it gives to its numbers.

use serde_json::{Map, Value};

/// A number of a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logged<'a> {
    /// `step` or `epoch`.
    pub kind: &'a str,
    /// Steps done.
    pub step: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// What it is.
    pub name: &'a str,
    /// What it says; finite.
    pub value: f64,
}

/// The whole lines of a `metrics.jsonl` or a `timings.jsonl`.
#[derive(Clone, Debug, Default)]
pub struct Log(Vec<Map<String, Value>>);

impl Log {
    /// Of the text of a log. What is no object of JSON, such as a last line that is still
    /// being written, is passed over.
    pub fn of(text: &str) -> Self {
        Self(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Two numbers of each line of a kind that has both, finite, in the order of the log.
    pub fn series(&self, kind: &str, x: &str, y: &str) -> Vec<(f64, f64)> {
        let number = |line: &Map<String, Value>, name: &str| {
            line.get(name)?.as_f64().filter(|value| value.is_finite())
        };
        self.of_kind(kind).filter_map(|line| Some((number(line, x)?, number(line, y)?))).collect()
    }

    /// A list of counts of each line of a kind that has one, with the line's epoch.
    pub fn counts(&self, kind: &str, name: &str) -> Vec<(u64, Vec<u64>)> {
        let counts = |line: &Map<String, Value>| {
            let counts: Option<Vec<u64>> =
                line.get(name)?.as_array()?.iter().map(Value::as_u64).collect();
            Some((line.get("epoch")?.as_u64()?, counts?))
        };
        self.of_kind(kind).filter_map(counts).collect()
    }

    /// Every number of the lines of training that has a step, in the order of the log; steps
    /// and epochs are places and no numbers.
    pub fn numbers(&self) -> impl Iterator<Item = Logged<'_>> {
        self.0.iter().flat_map(|line| {
            let kind = line.get("kind").and_then(Value::as_str);
            let kind = kind.filter(|kind| matches!(*kind, "step" | "epoch"));
            let place = kind.zip(line.get("step").and_then(Value::as_u64));
            let epoch = line.get("epoch").and_then(Value::as_u64).unwrap_or(0);
            place.into_iter().flat_map(move |(kind, step)| {
                let numbers = line.iter().filter(|(name, _)| !matches!(&***name, "step" | "epoch"));
                numbers.filter_map(move |(name, value)| {
                    let value = value.as_f64().filter(|value| value.is_finite())?;
                    Some(Logged { kind, step, epoch, name, value })
                })
            })
        })
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.0.iter().filter(move |line| line.get("kind").and_then(Value::as_str) == Some(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_by_their_name_from_whole_lines() {
        let log = Log::of(
            r#"{"kind":"step","step":1,"loss":5.5}
{"kind":"epoch","step":2,"epoch":1,"loss":4,"mask_histogram":[3,1]}
[1]
{"kind":"step","step":3,"loss":null}
{"kind":"step","step":4,"loss":1e999}
{"kind":"step","step":5,"loss":"much"}
{"kind":"step","step":6,"lo"#,
        );
        assert_eq!(log.series("step", "step", "loss"), [(1.0, 5.5)]);
        assert_eq!(log.series("epoch", "epoch", "loss"), [(1.0, 4.0)]);
        assert_eq!(log.counts("epoch", "mask_histogram"), [(1, vec![3, 1])]);
        let loss = |kind, step, epoch, value| Logged { kind, step, epoch, name: "loss", value };
        let numbers: Vec<_> = log.numbers().collect();
        assert_eq!(numbers, [loss("step", 1, 0, 5.5), loss("epoch", 2, 1, 4.0)]);
        assert!(log.series("evaluation", "step", "loss").is_empty());
    }
}
