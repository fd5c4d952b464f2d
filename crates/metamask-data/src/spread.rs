//! An order in which any part of a set has a share of every class.

use std::collections::BTreeMap;

/// The images of each class in their order, spread evenly among the others, so that the
/// first or the last so many hold a share of every class. Returns, for each place, the image
/// that comes there.
pub(crate) fn spread<C: Ord + Copy>(classes: &[C]) -> Vec<usize> {
    let mut sizes: BTreeMap<C, usize> = BTreeMap::new();
    let ranks: Vec<usize> = classes
        .iter()
        .map(|&class| {
            let size = sizes.entry(class).or_default();
            *size += 1;
            *size - 1
        })
        .collect();
    let mut order: Vec<usize> = (0..classes.len()).collect();
    // Image i of n has its place at (i + 1/2) / n of the whole.
    let place = |image: usize| (2 * ranks[image] + 1, sizes[&classes[image]]);
    order.sort_by(|&a, &b| {
        let ((a_over, a_under), (b_over, b_under)) = (place(a), place(b));
        (a_over * b_under).cmp(&(b_over * a_under)).then(classes[a].cmp(&classes[b]))
    });
    order
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn any_part_holds_a_share_of_every_class() {
        // Three classes of 60, 30 and 10, one after the other.
        let classes: Vec<u32> = (0..100).map(|i| u32::from(i >= 60) + u32::from(i >= 90)).collect();
        let order = spread(&classes);
        for (first, n) in [(0, 10), (0, 50), (90, 10), (37, 20)] {
            for (class, share) in [(0, 0.6), (1, 0.3), (2, 0.1)] {
                let part = order[first..first + n].iter();
                let found = part.filter(|&&image| classes[image] == class).count();
                let expected = share * n as f64;
                assert!((found as f64 - expected).abs() <= 1.0, "{class}: {found} of {n}");
            }
        }
        // Within a class the order stays, and a spread order is left as it is.
        let zeros = order.iter().filter(|&&image| image < 60);
        assert!(zeros.is_sorted());
        let again: Vec<u32> = order.iter().map(|&image| classes[image]).collect();
        assert!(spread(&again).is_sorted());
    }
}
