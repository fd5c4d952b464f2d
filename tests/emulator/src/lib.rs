//! A CUDA driver, cuDNN and cuBLAS without a GPU, to test what is written for one.
//!
//! One shared library that stands in for `libcuda.so.1`, `libcublas.so.N`, `libcudnn.so.N` and
//! `libcurand.so.N`. The device's memory is the host's; kernels are run from their PTX, thread by
//! thread, every access checked against what is allocated, and fresh memory holds NaNs; products
//! and convolutions are loops as their definitions have them. It shows whether kernels and their
//! calls are right, never how fast they are. What is not written here answers "not supported".
//!
//! Not part of the program: it is built and used by `cargo xtask cuda-toolchain --test` only.

#![allow(unsafe_code, reason = "it is a driver, whose interface is C's")]
#![allow(clippy::too_many_arguments, reason = "the interface is NVIDIA's")]

mod cublas;
mod cudnn;
mod curand;
mod driver;
mod memory;
mod numbers;
mod ptx;
