//! What masks are worth beside masks in other orders, added up over a line's seeds.

use metamask_eval::{MaskControls, MaskOrder, MeanStd, PairedDifference, Rescaling, Sharing};
use serde::Serialize;

use super::{
    table::{ColumnOfTable, Line},
    text_table::{TextTable, Words},
};

/// The controls of a line's seeds, added up. Accuracies in percent.
#[derive(Clone, Debug, Serialize)]
pub struct LineControls {
    /// kNN with all dimensions alike.
    pub no_mask: MeanStd,
    /// kNN with the mask's values in an order that is made from something.
    pub orders: Vec<(MaskOrder, MeanStd)>,
    /// The same, in the order's first half of the dimensions alone.
    pub halves: Vec<(MaskOrder, MeanStd)>,
    /// kNN with them in random orders, the mean of the draws.
    pub random: MeanStd,
    /// The same for halves.
    pub random_half: MeanStd,
    /// kNN on features that are rescaled in another way.
    pub rescaled: Vec<(Rescaling, MeanStd)>,
    /// What the learned order gains, seed by seed, where there is one.
    pub learned_over: Option<LearnedOver>,
    /// Share of all seeds' random orders that reach the learned one.
    pub random_as_good: Option<f64>,
    /// Spearman's ρ of the mask's values (without a mask: of the standard deviation) with each
    /// measure, AUC, and the seeds whose p is below 0.05.
    pub agreements: Vec<LineAgreement>,
    /// kNN above a guess, the mean over the class, the shared and the differing factors: without
    /// the mask and with it.
    pub decodability: Vec<(Option<Sharing>, [Option<MeanStd>; 2])>,
}

/// kNN with the learned order, less kNN with something else.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LearnedOver {
    /// With all dimensions alike.
    pub none: PairedDifference,
    /// With random orders, the mean of the draws.
    pub random: PairedDifference,
    /// With the oracle's order.
    pub oracle: PairedDifference,
}

/// How a measure goes with the mask, over the seeds.
#[derive(Clone, Debug, Serialize)]
pub struct LineAgreement {
    /// The measure.
    pub measure: String,
    /// ρ
    pub rho: MeanStd,
    /// AUC
    pub auc: MeanStd,
    /// Seeds whose permutation test has p < 0.05.
    pub seeds_below_0_05: usize,
}

impl LineControls {
    /// Of each seed's controls; none without any.
    pub(super) fn of(seeds: &[&MaskControls]) -> Option<Self> {
        let first = seeds.first()?;
        let over_seeds = |value: &dyn Fn(&MaskControls) -> Option<f64>| {
            let values: Vec<f64> = seeds.iter().filter_map(|seed| value(seed)).collect();
            MeanStd::of(&values).ok()
        };
        let mean_of = |values: Vec<f64>| MeanStd::of(&values).ok().map(|found| found.mean);
        let by_order = |half: bool| {
            let of = |order: MaskOrder| {
                let found = over_seeds(&|seed| {
                    let found = seed.of(order)?;
                    Some(if half { found.half_knn_percent } else { found.soft_knn_percent })
                });
                Some((order, found?))
            };
            first.orders.iter().filter_map(|(order, _)| of(*order)).collect::<Vec<_>>()
        };
        let soft_draws = |seed: &MaskControls| {
            seed.random.iter().map(|draw| draw.soft_knn_percent).collect::<Vec<f64>>()
        };
        let soft = |seed: &MaskControls, order| seed.of(order).map(|found| found.soft_knn_percent);
        let learned = |seed: &MaskControls| soft(seed, MaskOrder::Learned);
        let against = |other: &dyn Fn(&MaskControls) -> Option<f64>| {
            let pairs = seeds.iter().filter_map(|seed| Some((learned(seed)?, other(seed)?)));
            let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.unzip();
            PairedDifference::of(&ours, &theirs).ok()
        };
        let draws: Vec<(f64, f64)> = seeds
            .iter()
            .filter_map(|seed| Some((learned(seed)?, soft_draws(seed))))
            .flat_map(|(learned, draws)| draws.into_iter().map(move |draw| (learned, draw)))
            .collect();
        let as_good = draws.iter().filter(|(learned, draw)| draw >= learned).count();
        let agreement = |measure: &str| {
            let of = |seed: &MaskControls| {
                let found = seed.agreements.iter().find(|found| found.measure == measure)?;
                Some((found.correlation?, found.auc?))
            };
            Some(LineAgreement {
                measure: measure.to_owned(),
                rho: over_seeds(&|seed| of(seed).map(|(found, _)| found.rho))?,
                auc: over_seeds(&|seed| of(seed).map(|(_, auc)| auc))?,
                seeds_below_0_05: seeds
                    .iter()
                    .filter(|seed| of(seed).is_some_and(|(found, _)| found.p_value < 0.05))
                    .count(),
            })
        };
        let above_chance = |sharing: Option<Sharing>, masked: bool| {
            over_seeds(&|seed| {
                let here = seed.decodability.iter().filter(|found| found.sharing == sharing);
                let knn = here.map(|found| {
                    let knn =
                        if masked { found.masked_knn_percent } else { Some(found.knn_percent) };
                    knn.map(|knn| knn - found.chance_percent)
                });
                mean_of(knn.collect::<Option<Vec<f64>>>()?)
            })
        };
        let over = [
            against(&|seed| Some(seed.knn_percent)),
            against(&|seed| mean_of(soft_draws(seed))),
            against(&|seed| soft(seed, MaskOrder::Oracle)),
        ];
        let gains = match over {
            [Some(none), Some(random), Some(oracle)] => Some(LearnedOver { none, random, oracle }),
            _ => None,
        };
        let groups = [None, Some(Sharing::SharedByViews), Some(Sharing::DiffersBetweenViews)];
        Some(Self {
            no_mask: over_seeds(&|seed| Some(seed.knn_percent))?,
            orders: by_order(false),
            halves: by_order(true),
            random: over_seeds(&|seed| mean_of(soft_draws(seed)))?,
            random_half: over_seeds(&|seed| {
                mean_of(seed.random.iter().map(|draw| draw.half_knn_percent).collect())
            })?,
            rescaled: first
                .rescaled
                .iter()
                .filter_map(|(how, _)| Some((*how, over_seeds(&|seed| seed.rescaled(*how))?)))
                .collect(),
            learned_over: gains,
            random_as_good: match draws.is_empty() {
                true => None,
                false => Some(as_good as f64 / draws.len() as f64),
            },
            agreements: first.agreements.iter().filter_map(|a| agreement(&a.measure)).collect(),
            decodability: groups
                .into_iter()
                .map(|group| (group, [above_chance(group, false), above_chance(group, true)]))
                .collect(),
        })
    }

    fn order(&self, order: MaskOrder) -> Option<MeanStd> {
        self.orders.iter().find(|(known, _)| *known == order).map(|(_, found)| *found)
    }

    fn agreement(&self, measure: &str) -> Option<&LineAgreement> {
        self.agreements.iter().find(|found| found.measure == measure)
    }
}

/// A column's lines that have controls, in four tables; none if none has.
pub fn tables(column: &ColumnOfTable) -> Vec<TextTable> {
    let lines: Vec<(&Line, &LineControls)> =
        column.lines.iter().filter_map(|line| Some((line, line.mask_controls.as_ref()?))).collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let table = |title: &str, head: &str, rows: Vec<Vec<Words>>, note: &str| TextTable {
        title: title.to_owned(),
        head: head.split(" | ").map(str::to_owned).collect(),
        rows: lines
            .iter()
            .zip(rows)
            .map(|((line, _), row)| std::iter::once(line.title.clone().into()).chain(row).collect())
            .collect(),
        note: note.to_owned(),
    };
    let of = |row: fn(&LineControls) -> Vec<Words>| {
        lines.iter().map(|(_, controls)| row(controls)).collect::<Vec<_>>()
    };
    vec![
        table(
            "Is it the order that the mask learned?",
            "row | all alike | learned | reversed | random | oracle | variance | views agree | \
             learned over none | over random | over oracle | random as good",
            of(orders_row),
            "kNN with the mask's own values dealt out in other orders (without a mask: a ramp); differences seed by \
             seed with\ntheir 95 % interval. *Oracle* takes labels and factors.",
        ),
        table(
            "And what without a mask?",
            "row | as it is | centred | standardised | whitened | Fisher's weights (labels)",
            of(|controls| {
                let rescaled = controls.rescaled.iter().map(|(_, found)| percent(Some(*found)));
                std::iter::once(percent(Some(controls.no_mask))).chain(rescaled).collect()
            }),
            "kNN on the frozen features, rescaled by what the training features say.",
        ),
        table(
            "Does the mask go with what is known?",
            "row | class | shared nuisance | differing nuisance | class over shared | class over differing",
            of(agreements_row),
            "Spearman's ρ of the mask's values over the dimensions (without a mask: of their standard deviation), AUC, and \
             how many\nseeds' permutation tests have p < 0.05.",
        ),
        table(
            "What can be read off the features?",
            "row | class | masked | shared nuisance | masked | differing nuisance | masked",
            of(|controls| {
                controls.decodability.iter().flat_map(|(_, found)| found.map(percent)).collect()
            }),
            "kNN accuracy above a guess, the mean over the group's factors, without the mask and with it.",
        ),
    ]
}

fn percent(value: Option<MeanStd>) -> Words {
    let text = match value {
        None => "–".to_owned(),
        Some(MeanStd { mean, std: Some(std), .. }) => format!("{mean:.1} ± {std:.1}"),
        Some(MeanStd { mean, .. }) => format!("{mean:.1}"),
    };
    text.into()
}

fn orders_row(controls: &LineControls) -> Vec<Words> {
    let gains = match &controls.learned_over {
        Some(LearnedOver { none, random, oracle }) => [none, random, oracle]
            .map(|gain| Words { text: format!("{gain:.1}"), is_strong: gain.excludes_zero() }),
        None => [const { String::new() }; 3].map(Words::from),
    };
    let share = controls.random_as_good.map(|share| format!("{:.0} %", 100.0 * share));
    [
        percent(Some(controls.no_mask)),
        percent(controls.order(MaskOrder::Learned)),
        percent(controls.order(MaskOrder::Reversed)),
        percent(Some(controls.random)),
        percent(controls.order(MaskOrder::Oracle)),
        percent(controls.order(MaskOrder::Variance)),
        percent(controls.order(MaskOrder::ViewAgreement)),
    ]
    .into_iter()
    .chain(gains)
    .chain([share.unwrap_or_default().into()])
    .collect()
}

fn agreements_row(controls: &LineControls) -> Vec<Words> {
    let measures = [
        "class_share",
        "shared_nuisance_share",
        "differing_nuisance_share",
        "class_share - shared_nuisance_share",
        "class_share - differing_nuisance_share",
    ];
    let cell = |measure| match controls.agreement(measure) {
        None => "–".to_owned(),
        Some(LineAgreement { rho, auc, seeds_below_0_05: below, .. }) => {
            let std = rho.std.map_or_else(String::new, |std| format!(" ± {std:.2}"));
            format!("{:+.2}{std}, AUC {:.2} ({below}/{})", rho.mean, auc.mean, rho.n)
        }
    };
    measures.map(|measure| cell(measure).into()).to_vec()
}

#[cfg(test)]
mod tests {
    use metamask_eval::{Agreement, Decodability, OrderedMask, RankCorrelation};

    use super::super::{
        file::GridFile, jobs::Selection, page, table::Table, table::tests::written,
    };
    use super::*;

    /// Controls whose learned order has this kNN, and as random ones 40 and 44.
    fn controls(learned: f64, rho: f64, p_value: f64) -> MaskControls {
        let mask = |soft: f64| OrderedMask {
            soft_knn_percent: soft,
            half_knn_percent: soft - 1.0,
            half_linear_percent: soft + 1.0,
        };
        let read = |factor: &str, sharing, knn: f64| Decodability {
            factor: factor.to_owned(),
            sharing,
            chance_percent: 10.0,
            knn_percent: knn,
            masked_knn_percent: Some(knn + 2.0),
            linear_percent: knn,
        };
        let shared = Some(Sharing::SharedByViews);
        MaskControls {
            knn_percent: 42.0,
            linear_percent: 50.0,
            rescaled: vec![(Rescaling::Whitened, 48.0)],
            orders: vec![(MaskOrder::Learned, mask(learned)), (MaskOrder::Oracle, mask(46.0))],
            random: vec![mask(40.0), mask(44.0)],
            agreements: vec![Agreement {
                measure: "class_share".to_owned(),
                correlation: Some(RankCorrelation { rho, p_value, permutations: 9999 }),
                auc: Some(0.6),
            }],
            decodability: vec![
                read("class", None, 42.0),
                read("hue", shared, 20.0),
                read("tag", shared, 30.0),
            ],
        }
    }

    #[test]
    fn seeds_are_added_up_as_written_out() {
        let (one, other) = (controls(43.0, 0.2, 0.03), controls(45.0, 0.4, 0.2));
        let found = LineControls::of(&[&one, &other]).expect("two seeds");
        assert_eq!(found.order(MaskOrder::Learned).expect("an order").mean, 44.0);
        assert_eq!(found.order(MaskOrder::Variance), None);
        assert_eq!((found.random.mean, found.random_half.mean), (42.0, 41.0));
        let LearnedOver { none, random, oracle } = found.learned_over.expect("a mask");
        assert_eq!((none.mean, random.mean, oracle.mean), (2.0, 2.0, -2.0));
        // 43 is reached by 44 alone, 45 by none of two.
        assert_eq!(found.random_as_good, Some(0.25));
        let [agreement] = &found.agreements[..] else { panic!("one measure") };
        assert!((agreement.rho.mean - 0.3).abs() < 1e-12);
        assert_eq!(agreement.seeds_below_0_05, 1);
        let [(_, class), (_, shared), (_, differing)] = &found.decodability[..] else {
            panic!("three groups")
        };
        let means = |found: &[Option<MeanStd>; 2]| found.map(|found| found.map(|found| found.mean));
        assert_eq!(means(class), [Some(32.0), Some(34.0)]);
        assert_eq!(means(shared), [Some(15.0), Some(17.0)]);
        assert_eq!(means(differing), [None, None]);
        assert!(LineControls::of(&[]).is_none());
    }

    #[test]
    fn the_page_has_them_where_the_records_do() -> Result<(), crate::Failure> {
        let page = |change: fn(&mut crate::grid::Record)| {
            let (grid, folder): (GridFile, _) = written(&[[50.0, 53.0, 54.0]], change);
            let table = Table::of(&grid, folder.path(), &Selection::default())?;
            Ok::<_, crate::Failure>(page::markdown(&table, "records"))
        };
        assert!(!page(|_| ())?.contains("Is it the order"));
        let with = page(|record| record.results.mask_controls = Some(controls(43.0, 0.2, 0.03)))?;
        for expected in [
            "| SimCLR + MetaMask | 42.0 | 43.0 | – | 42.0 | 46.0 | – | – | +1.0 | +1.0 | -3.0 | 50 % |",
            "| SimCLR + MetaMask | +0.20, AUC 0.60 (1/1) |",
            "| SimCLR + MetaMask | 32.0 | 34.0 | 15.0 | 17.0 | – | – |",
            "| SimCLR + MetaMask | 42.0 | 48.0 |",
        ] {
            assert!(with.contains(expected), "`{expected}` in\n{with}");
        }
        Ok(())
    }
}
