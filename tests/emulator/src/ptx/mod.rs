//! PTX, NVIDIA's portable assembly: read as text, decoded kernel by kernel, run one thread after
//! another.
//!
//! As much of it as our kernels and Candle's use. What is not known is an error of the kernel that
//! has it, not of the module: most of Candle's kernels are never started.

mod decode;
mod machine;
mod module;
mod operation;
#[cfg(test)]
mod tests;
mod types;

pub use decode::Kernel;
pub use machine::{Launch, Memory};
pub use module::Module;
