//! What a page says of a mask among masks of the same values in other orders.

use crate::{
    intervals_figure::{IntervalMark, IntervalRow, IntervalsFigure, intervals_figure},
    page::{Block, Table, Verdict},
};

/// A mask among others. Accuracies are kNN's, in percent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlsReport {
    /// Under the order that was learned; none without a mask.
    pub learned: Option<f64>,
    /// Under orders that are made from something, with their names, from the top.
    pub orders: Vec<(String, f64)>,
    /// Under orders that are drawn.
    pub random: Vec<f64>,
    /// With all dimensions alike.
    pub no_mask: f64,
    /// What can be read off the features, the class first.
    pub read_off: Vec<ReadOff>,
    /// All of it in numbers: names with tables.
    pub tables: Vec<(String, Table)>,
}

/// How well something can be read off the features.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadOff {
    /// Its name.
    pub name: String,
    /// Whether two views of an image agree in it; none for the class.
    pub is_shared: Option<bool>,
    /// What a guess reaches.
    pub chance: f64,
    /// Without the mask.
    pub unmasked: f64,
    /// With it, where there is one.
    pub masked: Option<f64>,
}

/// Random orders that may do as well as the learned one before it counts as no better.
const MOST_AS_GOOD: f64 = 0.05;
/// Draws without which such a share cannot be told.
const FEWEST_DRAWS: usize = 20;

/// What the order is worth beside random ones; none without a mask or without draws.
pub(crate) fn controls_verdict(controls: &ControlsReport) -> Option<Verdict> {
    let learned = controls.learned?;
    let n = controls.random.len();
    let mean = mean(&controls.random)?;
    let as_good = controls.random.iter().filter(|&&draw| draw >= learned).count();
    let good = match (learned > mean, as_good as f64 / n as f64 <= MOST_AS_GOOD) {
        (false, _) => Some(false),
        (true, true) if n >= FEWEST_DRAWS => Some(true),
        (true, _) => None,
    };
    let (order, mask) = (signed(learned - mean), signed(learned - controls.no_mask));
    let text = format!(
        "The order of the mask's values is worth {order} points of kNN over the same values in \
         random orders, {as_good} of {n} of which do as well; over no mask at all it is {mask}."
    );
    Some(Verdict { good, text })
}

/// The figures, the tables, and when to distrust them.
pub(crate) fn controls_blocks(
    (title, subtitle): (&str, &str),
    controls: &ControlsReport,
) -> Vec<Block> {
    let about = "The mask's own values, dealt out to the dimensions in other orders: the spread of \
                 the values stays, so that only their order is left to explain a difference. \
                 Without a mask the values are a ramp from 1 to 0.";
    let mut blocks = vec![Block::Text(about.to_owned())];
    blocks.extend(controls_verdict(controls).map(|verdict| Block::Verdicts(vec![verdict])));
    let caption = "Points: kNN on the test images under each order; faint points: the random draws, \
                   the shade reaches from the lowest to the highest of them. An order that lies \
                   in the shade is as good as any other. The oracle takes labels and factors.";
    let figure = orders_figure((title, subtitle), controls);
    blocks.push(Block::Figure(Box::new(figure), caption.to_owned()));
    if let Some(figure) = read_off_figure((title, subtitle), controls) {
        let caption = "What the mask changes in how well kNN reads the class and each factor of the \
                       scene off the same features. A mask that finds confounders moves the class \
                       to the right and the nuisance to the left.";
        blocks.push(Block::Figure(Box::new(figure), caption.to_owned()));
    }
    for (name, table) in &controls.tables {
        blocks.extend([Block::Text(name.clone()), Block::Table(table.clone())]);
    }
    let distrust = [
        "Only the learned order over random ones is evidence of an order worth having. The learned \
         mask over no mask mixes order and spread.",
        "The random draws place the learned order to within about 1 in their number, and one run is \
         one encoder: another seed may say otherwise.",
        "The network is trained behind its mask and may have moved what the loss rewards to where \
         the mask is open. Then the order is good because the network followed it, and not because \
         the mask found it.",
        "Oracle and Fisher's ratio know the labels and are still no upper bound: they judge \
         dimensions one by one, and redundant dimensions rise and fall together.",
        "No order of a mask does what centring or whitening does: hold gains against these, too.",
    ];
    blocks.push(Block::Text("When to distrust it:".to_owned()));
    blocks.push(Block::List(distrust.map(str::to_owned).to_vec()));
    blocks
}

fn orders_figure((title, subtitle): (&str, &str), controls: &ControlsReport) -> crate::Drawing {
    let row = |title: &str, mark: IntervalMark| IntervalRow {
        title: title.to_owned(),
        marks: vec![mark],
    };
    let over = |value: f64| format!("{value:.1}  ({})", signed(value - controls.no_mask));
    let order = |name: &str, kind: usize, value: f64| {
        row(name, IntervalMark { kind, value, text: over(value), ..IntervalMark::default() })
    };
    let mut rows: Vec<IntervalRow> =
        controls.learned.iter().map(|&learned| order("learned", 0, learned)).collect();
    rows.extend(controls.orders.iter().map(|(name, value)| order(name, 1, *value)));
    if let Some(mean) = mean(&controls.random) {
        let parts = controls.random.clone();
        let text = over(mean);
        let mark = IntervalMark { kind: 6, value: mean, parts, text, ..IntervalMark::default() };
        rows.push(row(&format!("at random, mean of {} draws", controls.random.len()), mark));
    }
    let lowest = controls.random.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = controls.random.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let band = ("all random draws", [lowest, highest]);
    intervals_figure(&IntervalsFigure {
        title,
        subtitle,
        measure: "kNN accuracy, %  (in brackets: over no mask)",
        kinds: &[],
        level: ("no mask", controls.no_mask),
        band: (lowest <= highest).then_some(band),
        rows: &rows,
    })
}

/// What the mask changes; none without a mask.
fn read_off_figure(
    (title, subtitle): (&str, &str),
    controls: &ControlsReport,
) -> Option<crate::Drawing> {
    let row = |found: &ReadOff| {
        let ReadOff { name, is_shared, chance, unmasked, masked } = found;
        let masked = (*masked)?;
        let kind = match is_shared {
            None => 0,
            Some(true) => 1,
            Some(false) => 2,
        };
        let text = format!("{unmasked:.1} → {masked:.1}, guess {chance:.1}");
        let value = masked - unmasked;
        let mark = IntervalMark { kind, value, text, ..IntervalMark::default() };
        Some(IntervalRow { title: name.replace('_', " "), marks: vec![mark] })
    };
    let mut found: Vec<&ReadOff> = controls.read_off.iter().collect();
    found.sort_by_key(|found| found.is_shared.map(|is_shared| !is_shared));
    let rows: Vec<IntervalRow> = found.into_iter().filter_map(row).collect();
    let kinds = ["class", "nuisance that both views share", "nuisance that differs between views"];
    // Photographs have a class and no factors.
    let n_kinds = if controls.read_off.len() > 1 { kinds.len() } else { 1 };
    let figure = IntervalsFigure {
        title,
        subtitle,
        measure: "kNN accuracy with the mask less without it, points",
        kinds: &kinds[..n_kinds],
        level: ("no change", 0.0),
        band: None,
        rows: &rows,
    };
    (!rows.is_empty()).then(|| intervals_figure(&figure))
}

/// A difference in points. A negative zero is none.
fn signed(points: f64) -> String {
    let text = format!("{points:+.1}");
    if text == "-0.0" { "+0.0".to_owned() } else { text }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls(learned: Option<f64>, random: &[f64]) -> ControlsReport {
        let read = |name: &str, is_shared, masked| ReadOff {
            name: name.to_owned(),
            is_shared,
            chance: 10.0,
            unmasked: 40.0,
            masked,
        };
        ControlsReport {
            learned,
            orders: vec![("variance".to_owned(), 41.0)],
            random: random.to_vec(),
            no_mask: 42.0,
            read_off: vec![
                read("class", None, learned),
                read("hue", Some(true), learned.map(|_| 38.0)),
            ],
            tables: vec![("In numbers".to_owned(), Table::default())],
        }
    }

    #[test]
    fn an_order_is_judged_by_the_random_ones_alone() {
        let spread: Vec<f64> = (0..20).map(|i| 40.0 + 0.1 * f64::from(i)).collect();
        let verdict = |learned, random: &[f64]| controls_verdict(&controls(Some(learned), random));
        // Draws from 40.0 to 41.9, mean 40.95: 42.53 is above all, and 0.53 over no mask.
        let good = verdict(42.53, &spread).expect("a mask");
        assert_eq!(good.good, Some(true));
        assert!(good.text.contains("worth +1.6 points"), "{}", good.text);
        assert!(good.text.contains("0 of 20") && good.text.contains("it is +0.5"), "{}", good.text);
        assert_eq!(verdict(41.85, &spread).expect("a mask").good, Some(true), "1 of 20 is 5 %");
        assert_eq!(verdict(41.5, &spread).expect("a mask").good, None, "above the mean only");
        assert_eq!(verdict(40.5, &spread).expect("a mask").good, Some(false));
        assert_eq!(verdict(42.5, &[40.0, 41.0]).expect("a mask").good, None, "too few draws");
        assert_eq!(controls_verdict(&controls(None, &spread)), None);
        assert_eq!(verdict(42.5, &[]), None);
    }

    #[test]
    fn the_section_shows_what_there_is() {
        let figures = |controls: &ControlsReport| {
            let blocks = controls_blocks(("run", ""), controls);
            let drawn = blocks.iter().filter_map(|block| match block {
                Block::Figure(figure, _) => Some(figure.standalone()),
                _ => None,
            });
            drawn.collect::<Vec<String>>()
        };
        let [orders, read_off] = &figures(&controls(Some(44.0), &[40.0, 43.0]))[..] else {
            panic!("two figures")
        };
        for text in ["44.0  (+2.0)", "41.0  (-1.0)", "mean of 2 draws", "41.5  (-0.5)", "no mask"] {
            assert!(orders.contains(text), "{text} in {orders}");
        }
        assert!(read_off.contains("40.0 → 38.0, guess 10.0"), "{read_off}");
        // Without a mask there is no learned order, and nothing that it changes.
        let [orders] = &figures(&controls(None, &[]))[..] else { panic!("one figure") };
        assert!(!orders.contains("learned") && !orders.contains("NaN") && !orders.contains("inf"));
    }
}
