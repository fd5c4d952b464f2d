//! The order of samples in an epoch, and its division into batches.

use std::slice::ChunksExact;

use metamask_random::{Key, Purpose};

/// The order in which an epoch visits `n` samples: a pure function of its
/// arguments, so a resumed run needs no saved generator.
pub fn epoch_order(seed: u64, epoch: u32, n: u32) -> Vec<u32> {
    Key::new(seed, Purpose::Shuffle).epoch(epoch).stream().permutation(n)
}

/// The full batches of an epoch, in order; samples that do not fill the last
/// batch are left out (another epoch's order leaves out others).
///
/// ```
/// use metamask_data::{Batches, epoch_order};
/// let order = epoch_order(7, 0, 10);
/// let batches: Vec<_> = Batches::new(&order, 4).collect();
/// assert_eq!(batches, [&order[..4], &order[4..8]]);
/// ```
#[derive(Clone, Debug)]
pub struct Batches<'a>(ChunksExact<'a, u32>);

impl<'a> Batches<'a> {
    /// Divides `order` into batches of `size` samples.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(order: &'a [u32], size: usize) -> Self {
        Self(order.chunks_exact(size))
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = &'a [u32];

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }

    // Skipping to where a run was cut costs nothing.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.0.nth(n)
    }
}

impl ExactSizeIterator for Batches<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_sample_once_and_epochs_differ() {
        let mut order = epoch_order(3, 5, 100);
        assert_eq!(order, epoch_order(3, 5, 100));
        assert_ne!(order, epoch_order(3, 6, 100));
        assert_ne!(order, epoch_order(4, 5, 100));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn batches_are_full_and_can_be_skipped() {
        let order = epoch_order(0, 0, 11);
        let mut batches = Batches::new(&order, 3);
        assert_eq!(batches.len(), 3);
        assert_eq!(batches.nth(1), Some(&order[3..6]));
        assert_eq!(batches.len(), 1);
        assert_eq!(Batches::new(&order, 12).len(), 0);
    }
}
