//! What `metamask inspect dimensions` prints without `--json`.

use std::fmt::Write as _;

use metamask_eval::{Agreement, DimensionReport, DimensionRow, PowerLaw, Sharing, Usage};
use metamask_train::checkpoint::State;

/// Dimensions at either end of the mask that the table shows.
const SHOWN: usize = 5;

pub(crate) fn table(
    report: &DimensionReport,
    split: &str,
    State { step, epoch, .. }: State,
) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{} dimensions on {split}\n", report.dimensions.len());
    usage_table(&mut text, report);
    match report.mean_absolute_correlation {
        Some(mean) => {
            let independent = (2.0 / std::f64::consts::PI / report.images as f64).sqrt();
            let _ = writeln!(
                text,
                "mean |correlation|      {mean:>10.3}   independent ones have {independent:.3}"
            );
        }
        None => {
            text.push_str("mean |correlation|               -   fewer than two dimensions vary\n")
        }
    }
    let _ =
        writeln!(text, "kNN accuracy            {:>10.1}   percent", report.knn_accuracy_percent);

    let with = match report.agreement_with {
        "mask" => "mask value",
        _ => "standard deviation",
    };
    let _ = writeln!(
        text,
        "\n{:<42}  mean   chance     rho        p    AUC",
        format!("a dimension's {with} against its")
    );
    for agreement in &report.agreements {
        text += &agreement_line(report, agreement);
    }

    let by = |row: &DimensionRow| row.mask.unwrap_or(row.std);
    let mut rows: Vec<&DimensionRow> = report.dimensions.iter().collect();
    rows.sort_by(|a, b| by(b).total_cmp(&by(a)));
    let name = if report.agreement_with == "mask" { "mask" } else { "std" };
    let _ = writeln!(
        text,
        "\n{:>9}  {name:>7}  {:>7}  {:>7}  {:>8}  {:>8}",
        "dimension", "class %", "shared %", "differs %", "kNN votes"
    );
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", 100.0 * share))
    };
    let n = rows.len();
    for (i, row) in rows.iter().enumerate() {
        if i == SHOWN && n > 2 * SHOWN {
            text.push_str("      ...\n");
        }
        if (SHOWN..n.saturating_sub(SHOWN).max(SHOWN)).contains(&i) {
            continue;
        }
        let _ = writeln!(
            text,
            "{:>9}  {:>7.3}  {:>7}  {:>8}  {:>9}  {:>+9.2}",
            row.dimension,
            by(row),
            percent(Some(row.class_share)),
            percent(row.shared_nuisance_share),
            percent(row.differing_nuisance_share),
            row.knn_vote_drop,
        );
    }
    let [bank, queries] = report.knn_images;
    let _ = writeln!(
        text,
        "\n%         share of the dimension's variance that the class (eta squared) or the factors
          together (R squared) explain; chance is what as many groups without meaning do
kNN votes points of the right class's share of the votes lost without the dimension
          ({bank} images vote on {queries})
rho, p    Spearman's rank correlation and its two-sided permutation test; dimensions that
          copy one another make p too small
AUC       how often a dimension of the upper half has the higher {with}

trained   {epoch} epochs, {step} steps"
    );
    text
}

fn usage_table(text: &mut String, report: &DimensionReport) {
    let columns: Vec<(&str, &Usage)> = match &report.masked_usage {
        None => vec![("", &report.usage)],
        Some(masked) => vec![("no mask", &report.usage), ("masked", masked)],
    };
    let mut line = |name: &str, cell: &dyn Fn(&Usage) -> String| {
        let _ = write!(text, "{name:<24}");
        for (_, usage) in &columns {
            let _ = write!(text, "{:>10}", cell(usage));
        }
        text.push('\n');
    };
    line("effective rank", &|usage| format!("{:.1}", usage.effective_rank));
    line("RankMe", &|usage| format!("{:.1}", usage.rank_me));
    line("participation ratio", &|usage| format!("{:.1}", usage.participation_ratio));
    let law = |cell: &dyn Fn(&PowerLaw) -> String, usage: &Usage| {
        usage.alpha_req.as_ref().map_or_else(|| "-".to_owned(), cell)
    };
    line("alpha-ReQ", &|usage| law(&|law| format!("{:.2}", law.alpha), usage));
    line("  of ranks", &|usage| law(&|law| format!("{}-{}", law.first_rank, law.last_rank), usage));
    line("  R squared", &|usage| law(&|law| format!("{:.3}", law.r_squared), usage));
    line("dead dimensions", &|usage| usage.dead_dimensions.to_string());
    if columns.len() > 1 {
        let head = columns.iter().map(|(name, _)| format!("{name:>10}")).collect::<String>();
        let at = text.find("effective rank").expect("just written");
        text.insert_str(at, &format!("{:24}{head}\n", ""));
    }
}

fn agreement_line(report: &DimensionReport, agreement: &Agreement) -> String {
    let mean = |value: fn(&DimensionRow) -> Option<f64>| {
        let values: Vec<f64> = report.dimensions.iter().filter_map(value).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let chance = |sharing| report.nuisance_share_by_chance.get(&sharing).copied();
    let (name, mean, chance) = match agreement.measure.as_str() {
        "class_share" => (
            "class share of variance",
            percent(mean(|row| Some(row.class_share))),
            percent(report.class_share_by_chance),
        ),
        "class_information_nats" => (
            "information about the class, nats",
            format!("{:.3}", mean(|row| Some(row.class_information_nats))),
            "0".to_owned(),
        ),
        "probe_weight_share" => ("share of the probe's weights", String::new(), String::new()),
        "knn_vote_drop" => (
            "worth to kNN, points of the votes",
            format!("{:.2}", mean(|row| Some(row.knn_vote_drop))),
            "0".to_owned(),
        ),
        "shared_nuisance_share" => (
            "nuisance that both views share",
            percent(mean(|row| row.shared_nuisance_share)),
            chance(Sharing::SharedByViews).map_or_else(String::new, percent),
        ),
        "differing_nuisance_share" => (
            "nuisance that differs between views",
            percent(mean(|row| row.differing_nuisance_share)),
            chance(Sharing::DiffersBetweenViews).map_or_else(String::new, percent),
        ),
        "class_share - shared_nuisance_share" => {
            ("class less shared nuisance", String::new(), String::new())
        }
        _ => ("class less differing nuisance", String::new(), String::new()),
    };
    let (rho, p) = match agreement.correlation {
        Some(found) => (format!("{:+.2}", found.rho), format!("{:.4}", found.p_value)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let auc = agreement.auc.map_or_else(|| "-".to_owned(), |auc| format!("{auc:.2}"));
    format!("  {name:<38}{mean:>8} {chance:>8}  {rho:>6}  {p:>7}  {auc:>5}\n")
}
