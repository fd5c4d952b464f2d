//! The nuisance factors of generated scenes, in groups.

use metamask_data::{Factor, FactorGroup, FactorKind, Labelled};
use metamask_eval::{NuisanceFactor, Sharing, equal_arcs, equal_count_bins};

/// Bins of a continuous factor and arcs of a circular one.
const FACTOR_BINS: usize = 8;

/// The factors of some sets of scenes, continuous ones in bins of equal count over all sets
/// together; none for images that are no scenes.
pub fn nuisance_factors<const N: usize>(sets: [&Labelled; N]) -> [Vec<NuisanceFactor>; N] {
    let mut found = [const { Vec::new() }; N];
    let tables: Option<Vec<_>> = sets.iter().map(|set| set.factors.as_ref()).collect();
    let Some(tables) = tables else { return found };
    for Factor { name, group, kind } in tables.first().map_or(&[][..], |table| table.factors()) {
        let column: Vec<f64> = tables
            .iter()
            .flat_map(|table| table.column(name).expect("all scenes have the same factors"))
            .map(f64::from)
            .collect();
        let (groups, n_groups) = match kind {
            FactorKind::Categorical(n) => {
                (column.iter().map(|&value| value as u32).collect(), *n as usize)
            }
            FactorKind::Circular => (equal_arcs(&column, FACTOR_BINS), FACTOR_BINS),
            FactorKind::Continuous => (equal_count_bins(&column, FACTOR_BINS), FACTOR_BINS),
        };
        let sharing = match group {
            FactorGroup::SharedByViews => Sharing::SharedByViews,
            FactorGroup::DiffersBetweenViews => Sharing::DiffersBetweenViews,
        };
        let mut rest = &groups[..];
        for (found, set) in found.iter_mut().zip(sets) {
            let (own, others) = rest.split_at(set.len());
            rest = others;
            let (name, groups) = ((*name).to_owned(), own.to_vec());
            found.push(NuisanceFactor { name, sharing, groups, n_groups });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use metamask_data::{DatasetSpec, LoadOptions, load};

    use super::*;

    #[test]
    fn sets_share_their_bins_and_photographs_have_none() {
        let some = |spec: DatasetSpec| {
            let options = LoadOptions { train: Some(60), test: Some(20), ..Default::default() };
            load(&spec, &options).expect("embedded")
        };
        let shapes = some(DatasetSpec::Shapes);
        let [train, test] = nuisance_factors([&shapes.train, &shapes.test]);
        // 16 factors and 5 of a distractor.
        assert_eq!((train.len(), test.len()), (21, 21));
        let at = |factors: &[NuisanceFactor], name: &str| {
            factors.iter().position(|factor| factor.name == name).expect("a factor")
        };
        let radius = at(&train, "radius");
        assert_eq!((train[radius].groups.len(), test[radius].groups.len()), (60, 20));
        // A bin means the same lengths in both sets: a lower bin holds no larger ones.
        let column = |set: &Labelled| {
            set.factors.as_ref().expect("scenes").column("radius").expect("a factor")
        };
        let (of_train, of_test) = (column(&shapes.train), column(&shapes.test));
        for (value, bin) in of_test.iter().zip(&test[radius].groups) {
            for (other, other_bin) in of_train.iter().zip(&train[radius].groups) {
                assert!(bin >= other_bin || value < other, "{value} {bin} {other} {other_bin}");
            }
        }
        assert_eq!(train[at(&train, "mirrored")].sharing, Sharing::DiffersBetweenViews);
        let [plain] = nuisance_factors([&some(DatasetSpec::GarmentsPlain).test]);
        assert!(plain.is_empty());
    }
}
