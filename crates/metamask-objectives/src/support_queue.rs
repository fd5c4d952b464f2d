//! The support set of NNCLR (Dwibedi et al. 2021): the latest
//! embeddings, in which the neighbours of a batch are looked up.
//!
//! When to enqueue is up to the caller: once a regular step, and not in passes
//! that must leave no trace.

use candle_core::{DType, Device, Result, Tensor, bail};
use metamask_ops::l2_normalize;
use metamask_random::Key;

/// A first-in, first-out queue of embeddings of unit length.
///
/// It is a value: a clone shares its numbers and costs nothing, and
/// [`Self::enqueue`] makes new ones rather than change what a clone, or a tensor
/// from [`Self::entries`], still holds. So a clone is the queue as of its step.
/// That costs a copy, small beside the search: capacity · dim numbers are moved
/// where the search multiplies batch · capacity · dim.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use metamask_objectives::SupportQueue;
/// use metamask_random::{Key, Purpose};
///
/// # fn main() -> candle_core::Result<()> {
/// let key = Key::new(0, Purpose::SupportQueue);
/// let mut queue = SupportQueue::new(64, 8, key, DType::F32, &Device::Cpu)?;
/// let z = Tensor::ones((16, 8), DType::F32, &Device::Cpu)?;
/// let neighbours = queue.nearest(&z)?; // [16, 8]
/// queue.enqueue(&z)?;
/// # assert_eq!((neighbours.dims(), queue.pointer()), (&[16, 8][..], 16));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SupportQueue {
    entries: Tensor, // [capacity, dim]
    pointer: usize,
}

/// How far a row's length may be from 1 in a state that is put back: f32 rounding
/// over some thousand dimensions, and bf16 in somebody's file, stay below.
const LENGTH_TOLERANCE: f64 = 1e-2;

impl SupportQueue {
    /// A queue full of random directions, as lightly and solo-learn start theirs.
    ///
    /// Row by row, the entries are the normal numbers of `key`'s stream in f64,
    /// scaled to unit length and then cast.
    ///
    /// # Errors
    /// If capacity or dim is 0, the dtype no float, or the device fails.
    pub fn new(
        capacity: usize,
        dim: usize,
        key: Key,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if capacity == 0 || dim == 0 {
            bail!("support_queue: expected capacity and dim >= 1, got {capacity} and {dim}");
        }
        let mut stream = key.stream();
        let entries: Vec<f64> = (0..capacity * dim).map(|_| stream.normal()).collect();
        let entries = l2_normalize(&Tensor::from_vec(entries, (capacity, dim), &Device::Cpu)?)?;
        Ok(Self { entries: entries.to_dtype(dtype)?.to_device(device)?, pointer: 0 })
    }

    /// A queue from what [`Self::entries`] and [`Self::pointer`] gave.
    ///
    /// # Errors
    /// If the entries are no matrix of rows of unit length (or zero), or the
    /// pointer lies outside.
    pub fn from_state(entries: Tensor, pointer: usize) -> Result<Self> {
        let [capacity, dim] = entries.dims()[..] else {
            bail!("support_queue: expected entries [capacity, dim], got {:?}", entries.dims())
        };
        if capacity == 0 || dim == 0 {
            bail!("support_queue: expected entries [capacity, dim], got {:?}", entries.dims());
        }
        if pointer >= capacity {
            bail!("support_queue: expected a pointer below the capacity {capacity}, got {pointer}");
        }
        let squared = entries.to_dtype(DType::F64)?.sqr()?.sum(1)?.to_vec1::<f64>()?;
        // Written so that a NaN is refused, too.
        let fits = |squared: f64| squared == 0.0 || (squared.sqrt() - 1.0).abs() < LENGTH_TOLERANCE;
        if let Some(row) = squared.iter().position(|&squared| !fits(squared)) {
            let length = squared[row].sqrt();
            bail!("support_queue: entries must have length 1, row {row} has {length}");
        }
        // Copied, so that nothing reaches into the queue from outside.
        Ok(Self { entries: entries.detach().contiguous()?.copy()?, pointer })
    }

    /// The embeddings, `[capacity, dim]`, each of unit length (or zero).
    pub fn entries(&self) -> &Tensor {
        &self.entries
    }

    /// The row that the next embedding takes, the oldest one's.
    pub fn pointer(&self) -> usize {
        self.pointer
    }

    /// Puts embeddings in the place of the oldest ones, scaled to unit length, row
    /// after row and from the last row on to the first.
    ///
    /// # Shapes
    /// `z`: `[batch, dim]`, batch ≤ capacity, of the queue's dtype.
    /// # Errors
    /// If the shape or the dtype does not fit, or the batch is larger than the
    /// queue.
    pub fn enqueue(&mut self, z: &Tensor) -> Result<()> {
        let (capacity, batch) = (self.entries.dim(0)?, self.check("enqueue", z)?);
        if batch > capacity {
            bail!(
                "support_queue enqueue: a batch must fit, expected batch <= capacity {capacity}, \
                 got {batch}: raise the queue's capacity or lower the batch size"
            );
        }
        let z = l2_normalize(&z.detach())?;
        let end = self.pointer + batch;
        let old = |rows: std::ops::Range<usize>| self.entries.narrow(0, rows.start, rows.len());
        let parts = if end <= capacity {
            [old(0..self.pointer)?, z, old(end..capacity)?]
        } else {
            let at_the_end = capacity - self.pointer;
            let at_the_start = z.narrow(0, at_the_end, batch - at_the_end)?;
            [at_the_start, old(end - capacity..self.pointer)?, z.narrow(0, 0, at_the_end)?]
        };
        let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
        // One part is the whole batch: a tensor of its own already.
        self.entries = Tensor::cat(&parts, 0)?;
        self.pointer = end % capacity;
        Ok(())
    }

    /// The entry nearest to each embedding by cosine; of equally near ones the
    /// lowest row. A constant: no gradient goes through it.
    ///
    /// # Shapes
    /// `z`: `[batch, dim]`, of the queue's dtype. Returns `[batch, dim]`. Takes
    /// `[batch, capacity]` cosines in between.
    /// # Errors
    /// If the shape or the dtype does not fit.
    pub fn nearest(&self, z: &Tensor) -> Result<Tensor> {
        self.check("nearest", z)?;
        let cosines = l2_normalize(&z.detach())?.matmul(&self.entries.t()?)?; // [B, capacity]
        self.entries.index_select(&cosines.argmax(1)?, 0)
    }

    /// The batch size of embeddings that fit the queue.
    fn check(&self, operation: &str, z: &Tensor) -> Result<usize> {
        let dim = self.entries.dim(1)?;
        match *z.dims() {
            [batch, width] if width == dim && z.dtype() == self.entries.dtype() => Ok(batch),
            _ => bail!(
                "support_queue {operation}: expected [batch, {dim}] {:?}, got {:?} {:?}",
                self.entries.dtype(),
                z.dims(),
                z.dtype()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use candle_core::Var;
    use metamask_random::Purpose;

    use super::*;
    use crate::reference::normal;

    const KEY: Key = Key::new(3, Purpose::SupportQueue);

    fn queue(capacity: usize) -> Result<SupportQueue> {
        SupportQueue::new(capacity, 4, KEY, DType::F64, &Device::Cpu)
    }

    fn unit_rows(z: &Tensor) -> Result<Vec<Vec<f64>>> {
        let scaled = |row: Vec<f64>| {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.into_iter().map(|x| x / norm).collect()
        };
        Ok(z.to_vec2::<f64>()?.into_iter().map(scaled).collect())
    }

    /// Entries from the oldest to the latest.
    fn in_order(queue: &SupportQueue) -> Result<Vec<Vec<f64>>> {
        let mut rows = queue.entries().to_vec2::<f64>()?;
        rows.rotate_left(queue.pointer());
        Ok(rows)
    }

    fn assert_close(got: &[Vec<f64>], expected: &[Vec<f64>]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.concat().iter().zip(expected.concat()) {
            assert!((got - expected).abs() < 1e-14, "{got} {expected}");
        }
    }

    #[test]
    fn starts_with_the_key_s_directions_of_unit_length() -> Result<()> {
        let queue = queue(1000)?;
        let mut stream = KEY.stream();
        let drawn: Vec<f64> = (0..4000).map(|_| stream.normal()).collect();
        let drawn = Tensor::from_vec(drawn, (1000, 4), &Device::Cpu)?;
        assert_close(&queue.entries().to_vec2()?, &unit_rows(&drawn)?);
        assert_eq!(queue.pointer(), 0);
        // A uniform direction's entries have mean 0: sd 1/√(4 · 1000).
        for mean in queue.entries().mean(0)?.to_vec1::<f64>()? {
            assert!(mean.abs() < 4.0 / 4000f64.sqrt(), "{mean}");
        }
        Ok(())
    }

    #[test]
    fn contents_after_wrap_around_are_those_of_a_deque() -> Result<()> {
        for (capacity, batches) in [
            (8, vec![4, 4, 4]),
            (7, vec![3, 3, 3, 3, 3]),
            (7, vec![5, 1, 7, 6, 2]),
            (5, vec![5, 5]),
            (1, vec![1, 1]),
        ] {
            let mut queue = queue(capacity)?;
            let mut deque: VecDeque<Vec<f64>> = queue.entries().to_vec2::<f64>()?.into();
            let mut n_enqueued = 0;
            for (step, batch) in batches.into_iter().enumerate() {
                let z = normal(&[batch, 4], step as u32)?;
                queue.enqueue(&z)?;
                for row in unit_rows(&z)? {
                    deque.pop_front();
                    deque.push_back(row);
                }
                n_enqueued += batch;
                assert_eq!(queue.pointer(), n_enqueued % capacity);
                assert_close(&in_order(&queue)?, deque.make_contiguous());
            }
        }
        Ok(())
    }

    #[test]
    fn a_clone_keeps_what_it_held_whatever_is_enqueued() -> Result<()> {
        let mut queue = queue(7)?;
        queue.enqueue(&normal(&[3, 4], 0)?)?;
        let (snapshot, entries) = (queue.clone(), queue.entries().clone());
        let held = entries.to_vec2::<f64>()?;
        // A whole turn, in parts, and the whole queue at once.
        for batch in [3, 3, 7] {
            let z = Var::from_tensor(&normal(&[batch, 4], 9)?)?;
            queue.enqueue(z.as_tensor())?;
            let enqueued = queue.entries().to_vec2::<f64>()?;
            z.set(&z.zeros_like()?)?;
            assert_eq!(queue.entries().to_vec2::<f64>()?, enqueued, "the caller's variable moved");
        }
        assert_eq!(snapshot.entries().to_vec2::<f64>()?, held);
        assert_eq!(entries.to_vec2::<f64>()?, held);
        assert_eq!((snapshot.pointer(), queue.pointer()), (3, 2));
        Ok(())
    }

    #[test]
    fn nearest_is_the_largest_cosine_written_out() -> Result<()> {
        let queue = queue(50)?;
        let z = (normal(&[9, 4], 5)? * 1e3)?;
        let rows = queue.entries().to_vec2::<f64>()?;
        let expected: Vec<Vec<f64>> = unit_rows(&z)?
            .iter()
            .map(|z| {
                let cosine = |row: &[f64]| z.iter().zip(row).map(|(x, y)| x * y).sum::<f64>();
                let nearest = rows.iter().max_by(|a, b| cosine(a).total_cmp(&cosine(b)));
                nearest.expect("50 rows").clone()
            })
            .collect();
        assert_eq!(queue.nearest(&z)?.to_vec2::<f64>()?, expected);

        // No gradient comes back from it.
        let z = Var::from_tensor(&z)?;
        assert!(queue.nearest(z.as_tensor())?.sum_all()?.backward()?.get(&z).is_none());
        Ok(())
    }

    #[test]
    fn of_equally_near_entries_the_lowest_row_is_taken() -> Result<()> {
        // z is halfway between the two axes, and both are there twice; a zero
        // vector is equally far from all.
        let entries = Tensor::new(
            &[[-1.0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],
            &Device::Cpu,
        )?;
        let queue = SupportQueue::from_state(entries, 0)?;
        let z = Tensor::new(&[[3.0f32, 3.0], [1.0, 0.0], [0.0, 0.0]], &Device::Cpu)?;
        let nearest = queue.nearest(&z)?.to_vec2::<f32>()?;
        assert_eq!(nearest, [[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn state_goes_out_and_in_and_the_queue_goes_on() -> Result<()> {
        let mut queue = queue(7)?;
        queue.enqueue(&normal(&[5, 4], 0)?)?;
        let saved = Var::from_tensor(queue.entries())?;
        let mut restored = SupportQueue::from_state(saved.as_tensor().clone(), queue.pointer())?;
        saved.set(&saved.zeros_like()?)?;
        for queue in [&mut queue, &mut restored] {
            queue.enqueue(&normal(&[5, 4], 1)?)?;
        }
        assert_eq!(restored.pointer(), queue.pointer());
        assert_eq!(restored.entries().to_vec2::<f64>()?, queue.entries().to_vec2::<f64>()?);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() -> Result<()> {
        let mut queue = queue(7)?;
        let before = queue.clone();
        let cases = [
            (normal(&[8, 4], 0)?, "expected batch <= capacity 7, got 8: raise"),
            (normal(&[2, 3], 0)?, "expected [batch, 4] F64, got [2, 3] F64"),
            (normal(&[2, 4], 0)?.to_dtype(DType::F32)?, "got [2, 4] F32"),
        ];
        for (z, message) in cases {
            let error = queue.enqueue(&z).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(queue.nearest(&normal(&[2, 3], 0)?).is_err());
        assert_eq!(queue.pointer(), before.pointer());
        assert_eq!(queue.entries().to_vec2::<f64>()?, before.entries().to_vec2::<f64>()?);
        assert!(SupportQueue::new(0, 4, KEY, DType::F32, &Device::Cpu).is_err());
        Ok(())
    }

    #[test]
    fn a_state_that_is_none_is_refused() -> Result<()> {
        let good = queue(3)?.entries().clone();
        let spoiled = |value: f64| {
            let mut rows = good.to_vec2::<f64>()?;
            rows[1][2] = value;
            Tensor::new(rows, &Device::Cpu)
        };
        for (entries, pointer, message) in [
            (good.clone(), 3, "expected a pointer below the capacity 3, got 3"),
            (good.flatten_all()?, 0, "expected entries [capacity, dim], got [12]"),
            (good.narrow(0, 0, 0)?, 0, "expected entries [capacity, dim], got [0, 4]"),
            (spoiled(f64::NAN)?, 0, "row 1 has NaN"),
            (spoiled(5.0)?, 0, "row 1 has 5."),
        ] {
            let error = SupportQueue::from_state(entries, pointer).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        Ok(())
    }
}
