//! Mask controls in words: tables for the terminal, and what a page shows of them.

use metamask_eval::{Agreement, MaskControls, MaskOrder, MeanStd, OrderedMask, Rescaling, Sharing};
use metamask_report::{ControlsReport, ReadOff, Table};

/// A mask beside masks of the same values in other orders; what can be read off the features;
/// what the values go with, where anything is known of that.
pub(crate) fn tables(controls: &MaskControls) -> [Table; 3] {
    [orders(controls), read_off(controls), agreements(controls)]
}

/// The same with its figures' numbers.
pub(crate) fn report(controls: &MaskControls) -> ControlsReport {
    let soft = |found: &OrderedMask| found.soft_knn_percent;
    let others = controls.orders.iter().filter(|(order, _)| *order != MaskOrder::Learned);
    let names = [
        "All orders in numbers, and what no mask does: kNN under the values themselves, and kNN and \
         linear probe on the first half of the order's dimensions alone.",
        "What can be read off the features, in percent: kNN without the mask and with it, linear \
         probe, and a guess.",
        "Whether the mask's values (without a mask: the standard deviations) go with what the \
         dimensions tell about the test images: Spearman's rho, its permutation test, and how often \
         a dimension of the measure's upper half has the higher value.",
    ];
    let tables = names.into_iter().map(str::to_owned).zip(tables(controls));
    ControlsReport {
        learned: controls.of(MaskOrder::Learned).map(soft),
        orders: others.map(|(order, found)| (name_of(*order).to_owned(), soft(found))).collect(),
        random: controls.random.iter().map(soft).collect(),
        no_mask: controls.knn_percent,
        read_off: controls
            .decodability
            .iter()
            .map(|found| ReadOff {
                name: found.factor.clone(),
                is_shared: found.sharing.map(|sharing| sharing == Sharing::SharedByViews),
                chance: found.chance_percent,
                unmasked: found.knn_percent,
                masked: found.masked_knn_percent,
            })
            .collect(),
        tables: tables.filter(|(_, table)| !table.rows.is_empty()).collect(),
    }
}

fn percent(value: f64) -> String {
    format!("{value:.1}")
}

fn orders(controls: &MaskControls) -> Table {
    let row = |name: &str, cells: [String; 3]| [vec![name.to_owned()], cells.to_vec()].concat();
    let columns: [fn(&OrderedMask) -> f64; 3] =
        [|m| m.soft_knn_percent, |m| m.half_knn_percent, |m| m.half_linear_percent];
    let mut rows = Vec::new();
    for (order, found) in &controls.orders {
        rows.push(row(name_of(*order), columns.map(|value| percent(value(found)))));
    }
    let drawn = columns.map(|value| {
        let values: Vec<f64> = controls.random.iter().map(value).collect();
        MeanStd::of(&values).map_or_else(
            |_| String::new(),
            |drawn| match drawn.std {
                Some(std) => format!("{:.1}±{std:.1}", drawn.mean),
                None => percent(drawn.mean),
            },
        )
    });
    rows.push(row(&format!("at random, {} draws", controls.random.len()), drawn));
    let all = [percent(controls.knn_percent), String::new(), percent(controls.linear_percent)];
    rows.push(row("all dimensions alike", all));
    for (rescaling, knn) in &controls.rescaled {
        let name = match rescaling {
            Rescaling::Centred => "features centred",
            Rescaling::Standardised => "standardised",
            Rescaling::Whitened => "whitened",
            Rescaling::Fisher => "weighed by Fisher's ratio (labels)",
        };
        rows.push(row(name, [percent(*knn), String::new(), String::new()]));
    }
    let head =
        row("the mask's values given first to", ["kNN", "half kNN", "half lin"].map(str::to_owned));
    Table { head, rows, ..Table::default() }
}

fn read_off(controls: &MaskControls) -> Table {
    let rows = controls.decodability.iter().map(|found| {
        let sharing = found.sharing.map(|sharing| match sharing {
            Sharing::SharedByViews => " (shared)",
            Sharing::DiffersBetweenViews => " (differing)",
        });
        let masked = found.masked_knn_percent.map_or_else(String::new, percent);
        let name = found.factor.clone() + sharing.unwrap_or_default();
        let cells = [found.knn_percent, found.linear_percent, found.chance_percent].map(percent);
        let [knn, linear, chance] = cells;
        vec![name, knn, masked, linear, chance]
    });
    let head = ["read off the features", "kNN", "masked", "linear", "chance"].map(str::to_owned);
    Table { head: head.to_vec(), rows: rows.collect(), ..Table::default() }
}

fn agreements(controls: &MaskControls) -> Table {
    let row = |Agreement { measure, correlation, auc }: &Agreement| {
        let (found, auc) = ((*correlation)?, (*auc)?);
        let (rho, p) = (format!("{:+.2}", found.rho), format!("{:.4}", found.p_value));
        Some(vec![measure.clone(), rho, p, format!("{auc:.2}")])
    };
    let head = ["the values go with", "rho", "p", "AUC"].map(str::to_owned);
    let rows = controls.agreements.iter().filter_map(row);
    Table { head: head.to_vec(), rows: rows.collect(), ..Table::default() }
}

/// What an order goes by, in words.
fn name_of(order: MaskOrder) -> &'static str {
    match order {
        MaskOrder::Learned => "learned",
        MaskOrder::Reversed => "learned, reversed",
        MaskOrder::Oracle => "task over nuisance (oracle)",
        MaskOrder::Variance => "variance",
        MaskOrder::ViewAgreement => "agreement of the views",
    }
}
