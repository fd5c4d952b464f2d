//! What a run's numbers say, in sentences.

use crate::{
    controls_report::controls_verdict,
    page::Verdict,
    run_report::{Comparison, RunReport},
};

/// A mask whose values are no further apart than this has hardly moved.
const HARDLY: f64 = 0.05;

/// Sentences about a run, those that matter most first. They say what the numbers say and
/// nothing of one seed's chance: differences of a point may be that.
pub fn verdicts(run: &RunReport) -> Vec<Verdict> {
    let mut found = Vec::new();
    let mut say = |good: Option<bool>, text: String| found.push(Verdict { good, text });
    let (done, wanted) = run.epochs;
    if done < wanted {
        say(None, format!("Not finished: {done} of {wanted} epochs."));
    }
    if let Some(found) = run.accuracies.as_ref().and_then(|found| found.comparison.as_ref()) {
        let Comparison { measure, own, untrained, pixels, chance, with_and_without_mask } = found;
        let against = [
            ("the untrained encoder", *untrained),
            ("raw pixels", *pixels),
            ("a guess", Some(*chance)),
        ];
        let gains = || against.iter().filter_map(|(name, value)| Some((name, own - (*value)?)));
        let words: Vec<String> =
            gains().map(|(name, gain)| format!("{gain:+.1} points over {name}")).collect();
        let good = gains().all(|(_, gain)| gain > 0.0);
        say(Some(good), format!("{measure} {own:.1} %: {}.", words.join(", ")));
        if let Some((with, without)) = with_and_without_mask {
            let gain = with - without;
            let text = format!(
                "At test time the mask changes {measure} by {gain:+.1} points on the same features."
            );
            say(None, text);
        }
    }
    if let Some(mask) = &run.mask {
        let low = mask.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = mask.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (start, n) = (mask.start, mask.values.len());
        let faded = mask.values.iter().filter(|&&m| m < 0.1).count();
        match high - low < HARDLY {
            true => say(
                Some(false),
                format!(
                    "The mask has hardly moved: all values lie from {low:.3} to {high:.3}. It scales every dimension alike, which does nothing: its learning rate is too low for this length."
                ),
            ),
            false => say(
                None,
                format!(
                    "The mask has moved from {start:.2} to {low:.2} … {high:.2}; {faded} of {n} dimensions are below 0.1."
                ),
            ),
        }
    }
    if let Some(Verdict { good, text }) = run.controls.as_ref().and_then(controls_verdict) {
        say(good, text);
    }
    let last = |name: &str| run.metrics.series("epoch", "epoch", name).last().map(|point| point.1);
    if let (Some(std), Some(even)) = (last("embedding_std"), last("embedding_std_even")) {
        let rank = last("effective_rank").unwrap_or(f64::NAN);
        let dead = last("dead_dimensions").unwrap_or(0.0);
        let collapsed = std < 0.1 * even || rank < 2.0;
        let word = if collapsed { "Collapsed" } else { "No collapse" };
        let text = format!(
            "{word}: features fill {rank:.1} directions, {dead:.0} of their dimensions are dead, and \
             embeddings spread by {:.0} % of what they would if all coordinates shared it.",
            100.0 * std / even
        );
        say(Some(!collapsed), text);
    }
    if let (Some(loss), Some(chance)) = (last("base_loss"), last("chance_level")) {
        let text = format!("The base loss ended at {loss:.3}; a guess has {chance:.3}.");
        say(Some(loss < chance), text);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::Log,
        mask_figure::{MaskFigure, mask_figure},
        run_report::{Accuracies, MaskReport},
    };

    fn mask(values: &[f64]) -> MaskReport {
        let figure =
            mask_figure(&MaskFigure { title: "", subtitle: "", values, start: 0.5, ranges: &[] });
        MaskReport { figure, values: values.to_vec(), start: 0.5 }
    }

    fn epoch(numbers: &str) -> Log {
        Log::of(&format!("{{\"kind\":\"epoch\",\"epoch\":1,{numbers}}}"))
    }

    #[test]
    fn good_and_bad_news_are_told_apart() {
        let comparison = Comparison {
            measure: "kNN",
            own: 55.5,
            untrained: Some(40.0),
            pixels: Some(50.0),
            chance: 10.0,
            with_and_without_mask: Some((55.5, 54.0)),
        };
        let of = |own: f64| {
            let comparison = Some(Comparison { own, ..comparison.clone() });
            Some(Accuracies { comparison, ..Accuracies::default() })
        };
        let metrics = epoch(
            "\"embedding_std\":0.09,\"embedding_std_even\":0.1,\"effective_rank\":9,\"dead_dimensions\":0,\"base_loss\":4.0,\"chance_level\":5.0",
        );
        let mut run = RunReport {
            accuracies: of(55.5),
            mask: Some(mask(&[0.05, 0.95])),
            metrics,
            epochs: (1, 1),
            ..RunReport::default()
        };
        let said = verdicts(&run);
        let text: Vec<&str> = said.iter().map(|verdict| verdict.text.as_str()).collect();
        assert!(
            text[0].contains("kNN 55.5 %: +15.5 points over the untrained encoder, +5.5 points over raw pixels, +45.5"),
            "{text:?}"
        );
        assert!(text[1].contains("by +1.5 points"), "{text:?}");
        assert!(text[2].contains("0.05 … 0.95; 1 of 2"), "{text:?}");
        assert!(text[3].starts_with("No collapse") && text[3].contains("90 %"), "{text:?}");
        assert!(said.iter().all(|verdict| verdict.good != Some(false)), "{said:?}");

        run.epochs = (1, 30);
        run.mask = Some(mask(&[0.49, 0.51]));
        run.metrics = epoch(
            "\"embedding_std\":0.001,\"embedding_std_even\":0.1,\"effective_rank\":1.2,\"base_loss\":5.1,\"chance_level\":5.0",
        );
        run.accuracies = of(39.0);
        let bad = verdicts(&run).into_iter().filter(|verdict| verdict.good == Some(false)).count();
        assert_eq!(bad, 4, "{:?}", verdicts(&run));
        assert!(verdicts(&run)[0].text.starts_with("Not finished: 1 of 30"));
        assert!(verdicts(&RunReport::default()).is_empty());
    }
}
