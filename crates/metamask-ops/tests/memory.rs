//! What a network allocates once its buffers are there: its result and its
//! gradients; and it gives all of it back.
#![allow(unsafe_code, reason = "only an allocator can count allocations")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::{BatchStats, Conv2d, Network, Precision};

/// Blocks from this size on are counted: activations and packed weights are
/// larger, lists of offsets and Candle's nodes smaller.
const LARGE: usize = 64 << 10;
const STEPS: usize = 40;

static LARGE_BLOCKS: AtomicUsize = AtomicUsize::new(0);
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGE_BLOCKS.fetch_add(usize::from(layout.size() >= LARGE), Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Layers for each kind of convolution kernel, many channels included.
fn network(precision: Precision) -> Result<Network> {
    let layer = |out_channels, kernel, stride| {
        let padding = kernel / 2;
        Conv2d { out_channels, kernel, stride, padding }
    };
    let layers =
        [layer(32, 3, 1), layer(256, 3, 2), layer(256, 3, 1), layer(64, 1, 2), layer(64, 3, 1)];
    let mut b = Network::builder(16);
    b.precision(precision);
    let mut x = b.input();
    for (i, conv) in layers.into_iter().enumerate() {
        x = b.conv2d(&format!("conv{i}"), x, conv);
        x = b.batch_norm(&format!("bn{i}"), x);
        x = b.relu(x);
    }
    let x = b.global_avg_pool(x);
    b.finish(x)
}

/// One test, for the counters are the process's.
#[test]
fn steps_allocate_only_their_gradients_and_leave_nothing_behind() -> Result<()> {
    for precision in [Precision::Exact, Precision::Fast] {
        let network = network(precision)?;
        let x = Tensor::ones((16, 24, 24, 16), DType::F32, &Device::Cpu)?;
        let theta: Vec<f32> =
            (0..network.parameter_count()).map(|i| (i % 13) as f32 / 130.0 - 0.05).collect();
        let theta = Var::from_tensor(&Tensor::new(theta, &Device::Cpu)?)?;
        let running = Var::zeros(network.running_count(), DType::F32, &Device::Cpu)?;
        let step = || -> Result<()> {
            let y = network.forward(&x, &theta, &running, BatchStats::BatchOnly)?;
            y.sum_all()?.backward()?;
            Ok(())
        };
        for _ in 0..3 {
            step()?;
        }
        let (live, before) = (LIVE_BYTES.load(Relaxed), LARGE_BLOCKS.load(Relaxed));
        for _ in 0..STEPS {
            step()?;
        }
        let large = (LARGE_BLOCKS.load(Relaxed) - before) as f64 / STEPS as f64;
        // The gradient of theta as the kernels write it, the zeros that Candle
        // adds it to, and the sum.
        assert!(large <= 3.0, "{precision:?}: {large} large blocks a step");
        let grown = LIVE_BYTES.load(Relaxed) - live;
        assert!(grown.abs() < 64 << 10, "{precision:?}: {grown} bytes more after {STEPS} steps");
    }
    Ok(())
}
