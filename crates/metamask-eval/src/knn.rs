//! Weighted k-nearest-neighbour classification of features, the protocol of
//! Wu et al. 2018 (arXiv:1805.01978, section 3.4).

use std::cmp::Ordering;

use candle_core::{DType, Device, Result, Tensor, bail};
use metamask_ops::{MOST_OF_TOP_K, top_k, visit_products};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{check_labels, finite_features};

/// Settings of [`knn_predict`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knn {
    /// Number of neighbours that vote, from 1 to the size of the bank. Default 20.
    pub k: usize,
    /// T in a vote's weight exp(cos / T), positive. Default 0.1.
    pub temperature: f64,
}

impl Default for Knn {
    fn default() -> Self {
        Self { k: 20, temperature: 0.1 }
    }
}

/// Class of each query by a weighted vote of its k nearest features in the bank.
///
/// ```text
/// cos(q, b) = q·b / (‖q‖ ‖b‖)      votes(c) = Σ_{b ∈ N_k(q), y_b = c} exp(cos(q, b) / T)
/// ```
/// N_k(q) are the k of the highest cosine, of equal ones those that come first
/// in the bank; the lowest class wins between equal votes. A feature of zeros
/// has cosine 0 with everything. Computed in f32, where the bank is (more than 2048
/// neighbours on the CPU); the memory beyond the features is bounded, whatever their number.
///
/// # Shapes
/// `bank`: `[n, dim]` with `n` labels, `queries`: `[m, dim]`. Returns `m` classes.
/// # Errors
/// If shapes, labels or settings do not fit, or a feature is not finite.
pub fn knn_predict(
    bank: &Tensor,
    bank_labels: &[u32],
    queries: &Tensor,
    knn: Knn,
    n_classes: usize,
) -> Result<Vec<u32>> {
    let n_bank = checked_widths("knn_predict", bank, queries)?;
    check_labels("knn_predict", bank_labels, n_bank, n_classes)?;
    knn.check(n_bank)?;
    search("knn_predict", bank, queries, knn.k, |nearest| {
        knn.vote(&nearest, bank_labels, n_classes)
    })
}

/// The k features of the bank with the highest cosine to each query, the nearest first:
/// their cosines and indices. Of equal ones those come first that do in the bank.
///
/// Computed as in [`knn_predict`].
///
/// # Shapes
/// `bank`: `[n, dim]`, `queries`: `[m, dim]`, k from 1 to n. Returns m lists of k.
/// # Errors
/// If shapes or k do not fit, or a feature is not finite.
pub fn nearest(bank: &Tensor, queries: &Tensor, k: usize) -> Result<Vec<Vec<(f32, usize)>>> {
    let n_bank = checked_widths("nearest", bank, queries)?;
    if !(1..=n_bank).contains(&k) {
        bail!("nearest: k must be from 1 to the bank's size {n_bank}, got {k}");
    }
    search("nearest", bank, queries, k, |nearest| nearest)
}

/// The bank's size, where the queries have its width.
fn checked_widths(operation: &str, bank: &Tensor, queries: &Tensor) -> Result<usize> {
    let ((n_bank, expected), (_, got)) = (bank.dims2()?, queries.dims2()?);
    if expected != got {
        bail!("{operation}: queries must have the bank's width, expected {expected}, got {got}");
    }
    Ok(n_bank)
}

/// What `finish` makes of each query's nearest, sorted.
fn search<T: Send>(
    operation: &str,
    bank: &Tensor,
    queries: &Tensor,
    k: usize,
    finish: impl Fn(Vec<(f32, usize)>) -> T + Sync,
) -> Result<Vec<T>> {
    let [bank, queries] = [finite_features(operation, bank)?, finite_features(operation, queries)?];
    match bank.device() {
        Device::Cpu => search_on_cpu(&bank, &queries.to_device(&Device::Cpu)?, k, finish),
        _ if k > MOST_OF_TOP_K => {
            let [bank, queries] = [&bank, &queries].map(|h| h.to_device(&Device::Cpu));
            search_on_cpu(&bank?, &queries?, k, finish)
        }
        device => search_by_tensors(&bank, &queries.to_device(device)?, k, COSINES, finish),
    }
}

/// Cosines are looked at while they are in the cache, and not kept.
fn search_on_cpu<T: Send>(
    bank: &Tensor,
    queries: &Tensor,
    k: usize,
    finish: impl Fn(Vec<(f32, usize)>) -> T + Sync,
) -> Result<Vec<T>> {
    let dim = bank.dim(1)?;
    let bank = unit_rows(bank)?; // [N, D]
    let queries = unit_rows(queries)?; // [M, D]
    let mut found = Vec::with_capacity(queries.len() / dim);
    for queries in queries.chunks(QUERIES * dim) {
        let mut nearest: Vec<_> = (0..queries.len() / dim).map(|_| Nearest::new(k)).collect();
        visit_products(queries, &bank, dim, &mut nearest, |nearest, first, cosines| {
            nearest.offer(cosines, first);
        });
        found.par_extend(nearest.into_par_iter().map(|nearest| finish(nearest.sorted())));
    }
    Ok(found)
}

/// Cosines that are there at once where the bank is on a GPU, 256 MiB.
const COSINES: usize = 1 << 26;

/// A block of queries has its cosines with the whole bank, `at_once` of them, where the bank is.
fn search_by_tensors<T: Send>(
    bank: &Tensor,
    queries: &Tensor,
    k: usize,
    at_once: usize,
    finish: impl Fn(Vec<(f32, usize)>) -> T + Sync,
) -> Result<Vec<T>> {
    let bank = unit_rows_by_tensors(bank)?.t()?; // [D, N]
    let (n_bank, n_queries) = (bank.dim(1)?, queries.dim(0)?);
    let block = (at_once / n_bank).max(1);
    let mut found = Vec::with_capacity(n_queries);
    for first in (0..n_queries).step_by(block) {
        let queries = queries.narrow(0, first, block.min(n_queries - first))?;
        let cosines = unit_rows_by_tensors(&queries)?.matmul(&bank)?;
        let (cosines, indices) = top_k(&cosines, k)?;
        let (cosines, indices) = (cosines.to_vec2::<f32>()?, indices.to_vec2::<u32>()?);
        found.par_extend(cosines.into_par_iter().zip(indices).map(|(cosines, indices)| {
            let indices = indices.into_iter().map(|i| i as usize);
            finish(cosines.into_iter().zip(indices).collect())
        }));
    }
    Ok(found)
}

/// Queries that look through the bank at a time: enough to prepare its features for the
/// product only so often, few enough for the memory of their neighbours.
const QUERIES: usize = 4096;

impl Knn {
    fn check(&self, n_bank: usize) -> Result<()> {
        if !(1..=n_bank).contains(&self.k) {
            bail!("knn_predict: k must be from 1 to the bank's size {n_bank}, got {}", self.k);
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            bail!("knn_predict: temperature must be positive, got {}", self.temperature);
        }
        Ok(())
    }

    /// The class that a query's nearest, sorted, vote for.
    pub(crate) fn vote(&self, nearest: &[(f32, usize)], labels: &[u32], n_classes: usize) -> u32 {
        // The highest cosine is taken off every exponent, so that a small
        // temperature cannot overflow; the votes keep their proportions.
        let highest = f64::from(nearest[0].0);
        let mut votes = vec![0.0; n_classes];
        for &(cosine, idx) in nearest {
            let weight = ((f64::from(cosine) - highest) / self.temperature).exp();
            votes[labels[idx] as usize] += weight;
        }
        let mut winner = 0;
        for class in 1..n_classes {
            if votes[class] > votes[winner] {
                winner = class;
            }
        }
        winner as u32
    }
}

/// The k features of the highest cosine among those offered so far.
struct Nearest {
    k: usize,
    /// Every feature that may still be among them, at most 2 k.
    candidates: Vec<(f32, usize)>,
    /// What a later feature has to exceed; of equal ones the first stays.
    bar: f32,
}

impl Nearest {
    /// Cosines that are compared with the bar at once; nearly all end there.
    const STRIP: usize = 32;

    fn new(k: usize) -> Self {
        Self { k, candidates: Vec::with_capacity(2 * k), bar: f32::NEG_INFINITY }
    }

    /// Takes the cosines of features `first`, `first + 1` …, behind all offered before.
    #[inline(always)] // into code compiled for the CPU's vectors
    fn offer(&mut self, cosines: &[f32], first: usize) {
        for (strip, first) in cosines.chunks(Self::STRIP).zip((first..).step_by(Self::STRIP)) {
            // Counted, for `any` would look at one after the other.
            if strip.iter().map(|&cosine| u32::from(cosine > self.bar)).sum::<u32>() > 0 {
                self.take(strip, first);
            }
        }
    }

    #[inline(never)]
    fn take(&mut self, cosines: &[f32], first: usize) {
        for (&cosine, idx) in cosines.iter().zip(first..) {
            if cosine > self.bar {
                self.candidates.push((cosine, idx));
                if self.candidates.len() == 2 * self.k {
                    self.cut();
                }
            }
        }
    }

    /// Keeps the k nearest and raises the bar.
    fn cut(&mut self) {
        if self.candidates.len() > self.k {
            self.candidates.select_nth_unstable_by(self.k - 1, nearer);
            self.candidates.truncate(self.k);
        }
        if self.candidates.len() == self.k {
            self.bar = self.candidates.iter().map(|c| c.0).fold(f32::INFINITY, f32::min);
        }
    }

    /// Highest cosine first, equal ones in order of their index.
    fn sorted(mut self) -> Vec<(f32, usize)> {
        self.cut();
        self.candidates.sort_unstable_by(nearer);
        self.candidates
    }
}

/// Higher cosines first, of equal ones the lower index.
fn nearer(a: &(f32, usize), b: &(f32, usize)) -> Ordering {
    // Finite, and a zero is a zero of either sign.
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

/// Rows in f32, divided by their norms, which are taken in f64 and bounded below by 1e-12.
fn unit_rows(features: &Tensor) -> Result<Vec<f32>> {
    let dim = features.dim(1)?;
    let mut values = features.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    values.par_chunks_exact_mut(dim).for_each(|row| {
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    });
    Ok(values)
}

/// The same where only tensors reach, in blocks of rows, for f64 takes twice the room.
fn unit_rows_by_tensors(features: &Tensor) -> Result<Tensor> {
    /// 128 MiB of f64.
    const NUMBERS: usize = 1 << 24;
    let (n, dim) = features.dims2()?;
    let block = (NUMBERS / dim).max(1);
    let unit = |first: usize| -> Result<Tensor> {
        let rows = features.narrow(0, first, block.min(n - first))?.to_dtype(DType::F64)?;
        let norms = rows.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
        rows.broadcast_div(&norms)?.to_dtype(DType::F32)
    };
    Tensor::cat(&(0..n).step_by(block).map(unit).collect::<Result<Vec<_>>>()?, 0)
}

#[cfg(test)]
mod tests {
    use metamask_random::{Key, Purpose};

    use super::*;

    const KEY: Key = Key::new(1, Purpose::Test);

    fn normal(rows: usize, dim: usize, key: Key) -> Result<Tensor> {
        let mut stream = key.stream();
        let values: Vec<f64> = (0..rows * dim).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, (rows, dim), &Device::Cpu)
    }

    fn classes(rows: usize, n_classes: u32, key: Key) -> Vec<u32> {
        let mut stream = key.stream();
        (0..rows).map(|_| stream.below(n_classes)).collect()
    }

    fn rows(values: &[[f32; 2]]) -> Result<Tensor> {
        Tensor::from_slice(values.as_flattened(), (values.len(), 2), &Device::Cpu)
    }

    /// The definition, written out in f64, one query at a time.
    fn written_out(
        bank: &Tensor,
        labels: &[u32],
        queries: &Tensor,
        knn: Knn,
        n_classes: usize,
    ) -> Result<Vec<u32>> {
        let bank = bank.to_vec2::<f64>()?;
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut predictions = Vec::new();
        for q in queries.to_vec2::<f64>()? {
            let cosine =
                |b: &[f64]| q.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / (norm(&q) * norm(b));
            let mut order: Vec<(f64, usize)> =
                bank.iter().enumerate().map(|(i, b)| (cosine(b), i)).collect();
            order.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
            let mut votes = vec![0.0; n_classes];
            for &(cosine, i) in &order[..knn.k] {
                votes[labels[i] as usize] += (cosine / knn.temperature).exp();
            }
            let best = votes.iter().copied().fold(f64::MIN, f64::max);
            predictions.push(votes.iter().position(|&v| v == best).unwrap() as u32);
        }
        Ok(predictions)
    }

    #[test]
    fn tensors_alone_find_the_same_neighbours() -> Result<()> {
        let (bank, queries) = (normal(300, 7, KEY)?, normal(40, 7, KEY.view(2))?);
        // A row of zeros has cosine 0 with everything, of either sign.
        let bank = Tensor::cat(&[bank, Tensor::zeros((1, 7), DType::F64, &Device::Cpu)?], 0)?;
        let expected = search_on_cpu(&bank, &queries, 25, |nearest| nearest)?;
        // All at once, and three queries at a time with one left.
        for at_once in [COSINES, 1000] {
            let found = search_by_tensors(&bank, &queries, 25, at_once, |nearest| nearest)?;
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [25; 40]);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert_eq!(found.1, expected.1);
                assert!((found.0 - expected.0).abs() < 1e-6, "{found:?} {expected:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn predictions_equal_the_written_out_definition() -> Result<()> {
        let bank = normal(300, 7, KEY)?;
        let labels = classes(300, 4, KEY.view(1));
        let queries = normal(101, 7, KEY.view(2))?;
        for knn in [
            Knn { k: 1, temperature: 0.1 },
            Knn { k: 5, temperature: 1.0 },
            Knn { k: 20, temperature: 0.07 },
            Knn { k: 300, temperature: 0.1 },
        ] {
            let expected = written_out(&bank, &labels, &queries, knn, 4)?;
            assert_eq!(knn_predict(&bank, &labels, &queries, knn, 4)?, expected, "{knn:?}");
        }
        Ok(())
    }

    #[test]
    fn the_nearest_come_in_order_with_their_cosines() -> Result<()> {
        // At 0, 45, 90 and 180 degrees of the query; the last two are one direction.
        let bank = rows(&[[0.0, 2.0], [1.0, 1.0], [-3.0, 0.0], [5.0, 0.0], [1.0, 0.0]])?;
        let found = nearest(&bank, &rows(&[[0.5, 0.0]])?, 4)?;
        let (cosines, indices): (Vec<f32>, Vec<usize>) = found[0].iter().copied().unzip();
        assert_eq!(indices, [3, 4, 1, 0]);
        for (found, expected) in cosines.iter().zip([1.0, 1.0, 0.5f32.sqrt(), 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{cosines:?}");
        }
        assert!(nearest(&bank, &bank, 0).is_err() && nearest(&bank, &bank, 6).is_err());
        Ok(())
    }

    #[test]
    fn blocks_of_queries_do_not_change_predictions() -> Result<()> {
        // Two blocks of queries, the second one short; three of the bank.
        let bank = normal(2100, 3, KEY)?;
        let labels = classes(2100, 10, KEY.view(1));
        let queries = normal(QUERIES + 100, 3, KEY.view(2))?;
        let knn = Knn { k: 10, temperature: 0.1 };
        let expected = written_out(&bank, &labels, &queries, knn, 10)?;
        let got = knn_predict(&bank, &labels, &queries, knn, 10)?;
        // f32 cosines may swap two neighbours that are equal to 1e-7.
        let differing = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert!(differing <= 2, "{differing} predictions differ");
        Ok(())
    }

    #[test]
    fn equal_cosines_at_the_last_place_take_the_lowest_index() -> Result<()> {
        // All three lie in the query's direction: cosine 1 for each, k = 1.
        let bank = rows(&[[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [4.0, 0.0]])?;
        let query = rows(&[[8.0, 0.0]])?;
        let knn = Knn { k: 1, temperature: 1.0 };
        assert_eq!(knn_predict(&bank, &[0, 2, 1, 3], &query, knn, 4)?, [2]);
        Ok(())
    }

    #[test]
    fn equal_votes_go_to_the_lowest_class() -> Result<()> {
        let bank = rows(&[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])?;
        let query = rows(&[[1.0, 0.0]])?;
        let knn = Knn { k: 2, temperature: 1.0 };
        assert_eq!(knn_predict(&bank, &[2, 1, 0], &query, knn, 3)?, [1]);
        Ok(())
    }

    #[test]
    fn near_votes_outweigh_many_far_ones_at_a_low_temperature() -> Result<()> {
        let bank = rows(&[[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])?;
        let query = rows(&[[1.0, 0.0]])?;
        // exp(1/T) against 2 exp(0.6/T): they are equal at T = 0.4 / ln 2 = 0.577.
        for (temperature, expected) in [(0.5, 1), (0.7, 0), (1e-6, 1)] {
            let knn = Knn { k: 3, temperature };
            let got = knn_predict(&bank, &[1, 0, 0], &query, knn, 2)?;
            assert_eq!(got, [expected], "temperature {temperature}");
        }
        Ok(())
    }

    #[test]
    fn scaling_a_feature_changes_nothing() -> Result<()> {
        let bank = normal(50, 4, KEY)?;
        let labels = classes(50, 3, KEY.view(1));
        let queries = normal(20, 4, KEY.view(2))?;
        let knn = Knn { k: 5, temperature: 0.1 };
        // A power of two scales without rounding.
        let scaled = queries.affine(1024.0, 0.0)?;
        assert_eq!(
            knn_predict(&bank, &labels, &queries, knn, 3)?,
            knn_predict(&bank, &labels, &scaled, knn, 3)?
        );
        Ok(())
    }

    #[test]
    fn bad_input_is_refused() -> Result<()> {
        let bank = normal(5, 4, KEY)?;
        let labels = [0, 1, 0, 1, 0];
        let knn = Knn { k: 5, temperature: 0.1 };
        let refused = |bank: &Tensor, labels: &[u32], queries: &Tensor, knn, expected: &str| {
            let error = knn_predict(bank, labels, queries, knn, 2).unwrap_err().to_string();
            assert!(error.contains(expected), "`{error}` does not say `{expected}`");
        };
        refused(&bank, &labels, &bank, Knn { k: 6, ..knn }, "k must be from 1");
        refused(&bank, &labels, &bank, Knn { k: 0, ..knn }, "k must be from 1");
        refused(&bank, &labels, &bank, Knn { temperature: 0.0, ..knn }, "temperature");
        refused(&bank, &labels[1..], &bank, knn, "one label");
        refused(&bank, &[0, 1, 2, 0, 1], &bank, knn, "below the number of classes");
        refused(&bank, &labels, &normal(5, 3, KEY)?, knn, "the bank's width");
        refused(&bank, &labels, &(&bank * f64::NAN)?, knn, "must be finite");
        Ok(())
    }
}
