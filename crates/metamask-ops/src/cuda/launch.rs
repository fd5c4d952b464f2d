//! Starting our kernels: which module they are in, how many threads, which arguments.

use std::sync::Arc;

use candle_core::cuda_backend::{CudaDevice, WrapErr, cudarc};
use candle_core::{Result, bail};
use cudarc::driver::{CudaFunction, CudaStream, LaunchArgs, LaunchConfig};

#[allow(missing_docs)]
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    name: &'static str,
    ptx: &'static str,
}

pub(crate) const BATCH_NORM: Module = Module { name: "metamask_batch_norm", ptx: ptx::BATCH_NORM };
pub(crate) const CONVOLUTION: Module =
    Module { name: "metamask_convolution", ptx: ptx::CONVOLUTION };
pub(crate) const ELEMENTWISE: Module =
    Module { name: "metamask_elementwise", ptx: ptx::ELEMENTWISE };
pub(crate) const POOL: Module = Module { name: "metamask_pool", ptx: ptx::POOL };
pub(crate) const PIXELS: Module = Module { name: "metamask_pixels", ptx: ptx::PIXELS };
pub(crate) const TOP_K: Module = Module { name: "metamask_top_k", ptx: ptx::TOP_K };

impl Module {
    /// The kernel `<name>_<suffix>`.
    pub fn kernel(self, device: &CudaDevice, name: &str, suffix: &str) -> Result<Kernel> {
        let name = format!("{name}_{suffix}");
        let function = device.get_or_load_custom_func(&name, self.name, self.ptx)?;
        Ok(Kernel { function: function.into_cuda_function(), stream: device.cuda_stream() })
    }
}

/// A kernel and the stream it runs on.
pub(crate) struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// A call of it, without arguments.
    pub fn call(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// Threads of a block, where nothing asks for another number.
const THREADS: u32 = 256;

/// Starts a kernel with at least `count` threads.
///
/// # Safety
/// The arguments must be the kernel's, and every address it computes from them valid.
#[allow(unsafe_code)]
pub(crate) unsafe fn over(count: usize, arguments: &mut LaunchArgs<'_>) -> Result<()> {
    let blocks = count.div_ceil(THREADS as usize);
    // SAFETY: the caller's.
    unsafe { blocks_of(arguments, (blocks, 1), (THREADS, 1)) }
}

/// Starts a kernel with a grid and a block of two sides.
///
/// # Safety
/// As [`over`].
#[allow(unsafe_code)]
pub(crate) unsafe fn blocks_of(
    arguments: &mut LaunchArgs<'_>,
    grid: (usize, usize),
    block: (u32, u32),
) -> Result<()> {
    if grid.0 == 0 || grid.1 == 0 {
        return Ok(());
    }
    let (Ok(x @ ..=0x7fff_ffff), Ok(y @ ..=0xffff)) =
        (u32::try_from(grid.0), u32::try_from(grid.1))
    else {
        bail!("cuda: a grid of {} by {} blocks is more than a GPU takes", grid.0, grid.1);
    };
    let shape =
        LaunchConfig { grid_dim: (x, y, 1), block_dim: (block.0, block.1, 1), shared_mem_bytes: 0 };
    // SAFETY: the caller's.
    unsafe { arguments.launch(shape) }.w()?;
    Ok(())
}
