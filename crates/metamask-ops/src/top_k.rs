//! The largest numbers of every row, wherever the rows lie.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

/// The most that a GPU finds in a row.
pub const MOST_OF_TOP_K: usize = 2048;

/// The k largest numbers of every row, the largest first, and their columns; of equal ones those
/// that come first.
///
/// A zero is a zero of either sign. A NaN stands above all numbers, or below them if it has a
/// sign. The same on every device.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// # use candle_core::{Device, Tensor};
/// let rows = Tensor::new(&[[1f32, 3., 2., 3.]], &Device::Cpu)?;
/// let (values, columns) = metamask_ops::top_k(&rows, 3)?;
/// assert_eq!(values.to_vec2::<f32>()?, [[3., 3., 2.]]);
/// assert_eq!(columns.to_vec2::<u32>()?, [[1, 3, 2]]);
/// # Ok(())
/// # }
/// ```
/// # Shapes
/// `rows`: `[m, n]`, f32; k from 1 to n, on a GPU to [`MOST_OF_TOP_K`]. Returns two of `[m, k]`, f32 and u32.
/// # Errors
/// If shape, k or dtype do not fit.
pub fn top_k(rows: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let (m, n) = rows.dims2()?;
    if !(1..=n).contains(&k) || u32::try_from(n).is_err() {
        bail!("top_k: k must be from 1 to the width {n} of a row, got {k}");
    }
    if rows.dtype() != DType::F32 {
        bail!("top_k: rows must be f32, got {:?}", rows.dtype());
    }
    let rows = rows.detach().contiguous()?;
    #[cfg(feature = "cuda")]
    if rows.device().is_cuda() {
        return crate::cuda::top_k(&rows, k);
    }
    let numbers = rows.flatten_all()?.to_vec1::<f32>()?;
    let found: Vec<(f32, u32)> =
        numbers.par_chunks_exact(n).flat_map_iter(|row| top_k_of(row, k)).collect();
    let (values, columns): (Vec<f32>, Vec<u32>) = found.into_iter().unzip();
    let device = rows.device();
    Ok((Tensor::from_vec(values, (m, k), device)?, Tensor::from_vec(columns, (m, k), device)?))
}

fn top_k_of(row: &[f32], k: usize) -> Vec<(f32, u32)> {
    let mut ranks: Vec<u64> = row.iter().zip(0..).map(|(&x, column)| rank_of(x, column)).collect();
    ranks.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    ranks.truncate(k);
    ranks.sort_unstable_by(|a, b| b.cmp(a));
    let column = |rank: u64| u32::MAX - rank as u32;
    ranks.into_iter().map(|rank| (row[column(rank) as usize], column(rank))).collect()
}

/// An integer that is larger for a larger number and, of equal ones, for a lower column.
fn rank_of(value: f32, column: u32) -> u64 {
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(u32::MAX - column)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    fn devices() -> Vec<Device> {
        #[cfg(feature = "cuda")]
        if let Ok(gpu) = crate::cuda_device(0) {
            return vec![Device::Cpu, gpu];
        }
        vec![Device::Cpu]
    }

    #[test]
    fn a_gpu_and_the_cpu_find_those_of_a_sorted_row() -> Result<()> {
        let mut stream = Key::new(5, Purpose::Test).stream();
        // Many are equal, zeros of both signs and infinities among them.
        let mut number = || match stream.below(20) {
            0 => f32::INFINITY,
            1 => f32::NEG_INFINITY,
            2 => -0.0,
            x => (x as f32 - 10.0) / 2.0 + stream.below(2) as f32 * stream.uniform_f64() as f32,
        };
        for (m, n, k) in [(3, 1, 1), (2, 31, 31), (2, 33, 5), (3, 700, 200), (1, 2500, 300)] {
            let rows: Vec<Vec<f32>> = (0..m).map(|_| (0..n).map(|_| number()).collect()).collect();
            let mut expected = Vec::new();
            for row in &rows {
                let mut columns: Vec<usize> = (0..n).collect();
                // Stable: equal ones stay in their order.
                columns.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).expect("no NaN"));
                expected.push(columns[..k].iter().map(|&c| c as u32).collect::<Vec<_>>());
            }
            for device in devices() {
                let (values, columns) = top_k(&Tensor::new(rows.clone(), &device)?, k)?;
                assert_eq!(columns.to_vec2::<u32>()?, expected, "{device:?}, [{m}, {n}], {k}");
                for ((values, columns), row) in
                    values.to_vec2::<f32>()?.iter().zip(&expected).zip(&rows)
                {
                    let theirs = columns.iter().map(|&c| row[c as usize].to_bits());
                    assert!(values.iter().map(|v| v.to_bits()).eq(theirs), "the row's own bits");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_gpu_and_the_cpu_know_a_part_of_a_matrix_and_a_nan() -> Result<()> {
        for device in devices() {
            let rows = Tensor::new(&[[9f32, 1., 2., 9.], [9., f32::NAN, 3., 9.]], &device)?;
            let (_, columns) = top_k(&rows.narrow(1, 1, 2)?, 1)?;
            assert_eq!(columns.to_vec2::<u32>()?, [[1], [0]], "{device:?}");
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let rows = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        for (rows, k, expected) in [
            (rows.clone(), 0, "from 1 to the width 3"),
            (rows.clone(), 4, "got 4"),
            (rows.to_dtype(DType::F64)?, 1, "must be f32"),
        ] {
            let error = top_k(&rows, k).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        Ok(())
    }
}
