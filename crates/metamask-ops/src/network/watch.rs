//! Watching a network at work: which step runs, and when it begins and ends.
//!
//! The clock is the watcher's: nothing here reads one.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::engine::Engine;
use super::plan::Step;
use super::run::Run;
use crate::ParameterEntry;

/// What a step of a network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The value.
    Forward,
    /// The gradient in what the step reads; of a convolution or linear layer,
    /// both gradients together.
    Backward,
    /// Of a convolution, the gradient in the data.
    BackwardData,
    /// Of a convolution, the gradient in the weights.
    BackwardWeight,
    /// The derivative along a direction.
    Tangent,
}

/// A step of a pass.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    /// The layer's name, or what it does if it has no parameters.
    pub name: &'a str,
    /// `conv2d`, `batch_norm`, `relu`, …; what was fused is one step.
    pub kind: &'static str,
    /// What is computed of it.
    pub phase: Phase,
    /// Multiplications (each with an addition) that the definition asks for.
    pub multiply_adds: u64,
    /// Bytes of the values that it reads and writes once.
    pub bytes: u64,
}

/// Sees the steps of a network's passes, on the thread that asked for the pass.
pub trait Watcher: Send + Sync {
    /// A step begins.
    fn begin(&self, step: &StepView<'_>);
    /// The step that began last ends.
    fn end(&self);
}

/// Whoever watches, if anybody does.
#[derive(Default)]
pub(super) struct Watched(RwLock<Option<Arc<dyn Watcher>>>);

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    pub fn set(&self, watcher: Option<Arc<dyn Watcher>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = watcher;
    }

    fn get(&self) -> Option<Arc<dyn Watcher>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tells the watcher of the end of a step when dropped.
pub(super) struct Watching(Option<Arc<dyn Watcher>>);

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(watcher) = &self.0 {
            watcher.end();
        }
    }
}

impl<E: Engine> Run<'_, E> {
    /// Tells the watcher that `step` begins, and when the result is dropped that it ended.
    pub fn watch(&self, step: &Step, phase: Phase) -> Watching {
        let Some(watcher) = self.watched.get() else { return Watching(None) };
        let (kind, weight) = match step {
            Step::Conv { weight, .. } => ("conv2d", Some(weight)),
            Step::Norm { gamma, .. } => ("batch_norm", Some(gamma)),
            Step::Relu { .. } => ("relu", None),
            Step::Add { .. } => ("add", None),
            Step::MaxPool { .. } => ("max_pool2d", None),
            Step::AvgPool { .. } => ("avg_pool2d", None),
            Step::GlobalAvgPool { .. } => ("global_avg_pool", None),
            Step::Linear { weight, .. } => ("linear", Some(weight)),
        };
        let entry = weight.and_then(|span| self.parameters.iter().find(|e| e.span == *span));
        let name = entry.map_or(kind, |entry: &ParameterEntry| {
            entry.name.strip_suffix(".weight").unwrap_or(&entry.name)
        });
        let len = |value: usize| (self.batch * self.shapes[value].len()) as u64;
        let products = match step {
            Step::Conv { y, weight, .. } => {
                let (_, _, out_c) = self.shapes[*y].image();
                len(*y) / out_c as u64 * weight.len() as u64
            }
            Step::Linear { weight, .. } => (self.batch * weight.len()) as u64,
            _ => 0,
        };
        let of_images = step.inputs().any(|value| value == 0);
        let multiply_adds = match phase {
            // Both gradients; both factors' tangents, but the images have none.
            Phase::Backward => 2 * products,
            Phase::Tangent if !of_images => 2 * products,
            _ => products,
        };
        let values = len(step.output()) + step.inputs().map(len).sum::<u64>();
        let bytes = values * size_of::<E::Scalar>() as u64;
        watcher.begin(&StepView { name, kind, phase, multiply_adds, bytes });
        Watching(Some(watcher))
    }
}
