//! A part of the labelled images, the same share of every class: what a
//! semi-supervised evaluation may look at.

use candle_core::{Result, bail};
use metamask_random::Key;

use crate::check_labels;

/// Indices, rising, of a share of each class's images.
///
/// ```text
/// n_c' = max(1, round(share · n_c))      for each class c that has images
/// ```
/// Where the classes are equally large, so are their parts. A class's images are
/// drawn by `key.sample(c)` alone and smaller shares are parts of larger ones: 1 %
/// lies within 10 %. A share of 1 is every image.
///
/// # Errors
/// If a label is not below `n_classes`, or the share is not above 0 and at most 1.
/// # Source
/// Chen et al. 2020 (arXiv:2002.05709), section 4.2, sample 1 % and 10 % "in a
/// class-balanced way"; where classes differ in size this keeps their proportions.
pub fn label_subset(labels: &[u32], n_classes: usize, share: f64, key: Key) -> Result<Vec<u32>> {
    check_labels("label_subset", labels, labels.len(), n_classes)?;
    if !(share > 0.0 && share <= 1.0) {
        bail!("label_subset: share must be above 0 and at most 1, got {share}");
    }
    let mut of_class = vec![Vec::new(); n_classes];
    for (i, &label) in labels.iter().enumerate() {
        of_class[label as usize].push(i as u32);
    }
    let mut subset = Vec::new();
    for (class, images) in of_class.iter().enumerate().filter(|(_, images)| !images.is_empty()) {
        let order = key.sample(class as u32).stream().permutation(images.len() as u32);
        let n = ((share * images.len() as f64).round() as usize).max(1);
        subset.extend(order[..n].iter().map(|&place| images[place as usize]));
    }
    subset.sort_unstable();
    Ok(subset)
}

#[cfg(test)]
mod tests {
    use metamask_random::Purpose;

    use super::*;

    const KEY: Key = Key::new(5, Purpose::Test);

    /// How many of each class.
    fn counts(labels: &[u32], subset: &[u32]) -> Vec<usize> {
        let mut counts = vec![0; 4];
        subset.iter().for_each(|&i| counts[labels[i as usize] as usize] += 1);
        counts
    }

    #[test]
    fn equal_classes_give_equal_parts_and_no_image_twice() -> Result<()> {
        let labels: Vec<u32> = (0..4000).map(|i| i % 4).collect();
        for (share, each) in [(1.0, 1000), (0.1, 100), (0.01, 10), (1e-9, 1)] {
            let subset = label_subset(&labels, 4, share, KEY)?;
            assert_eq!(counts(&labels, &subset), [each; 4], "{share}");
            assert!(subset.is_sorted_by(|a, b| a < b));
        }
        Ok(())
    }

    #[test]
    fn unequal_classes_keep_their_proportions_and_each_has_one() -> Result<()> {
        // 900, 90, 9 and none.
        let labels: Vec<u32> =
            (0..999).map(|i| if i < 900 { 0 } else { 1 + u32::from(i >= 990) }).collect();
        assert_eq!(counts(&labels, &label_subset(&labels, 4, 0.1, KEY)?), [90, 9, 1, 0]);
        assert_eq!(counts(&labels, &label_subset(&labels, 4, 0.001, KEY)?), [1, 1, 1, 0]);
        Ok(())
    }

    #[test]
    fn a_smaller_share_lies_within_a_larger_and_keys_differ() -> Result<()> {
        let labels: Vec<u32> = (0..1000).map(|i| i * 7 % 4).collect();
        let of = |share, key| label_subset(&labels, 4, share, key);
        let (large, small) = (of(0.1, KEY)?, of(0.01, KEY)?);
        assert!(small.iter().all(|i| large.binary_search(i).is_ok()));
        assert_eq!(of(0.1, KEY)?, large);
        assert_ne!(of(0.1, Key::new(6, Purpose::Test))?, large);
        // The order of other classes' images changes nothing of a class.
        let first: Vec<u32> = large.iter().copied().filter(|&i| labels[i as usize] == 0).collect();
        let merged: Vec<u32> = labels.iter().map(|&label| u32::from(label > 0)).collect();
        let again = label_subset(&merged, 2, 0.1, KEY)?;
        assert_eq!(
            again.into_iter().filter(|&i| merged[i as usize] == 0).collect::<Vec<_>>(),
            first
        );
        Ok(())
    }

    #[test]
    fn bad_shares_and_labels_are_refused() {
        for share in [0.0, -0.1, 1.01, f64::NAN] {
            assert!(label_subset(&[0, 1], 2, share, KEY).is_err(), "{share}");
        }
        assert!(label_subset(&[0, 2], 2, 0.5, KEY).is_err());
    }
}
