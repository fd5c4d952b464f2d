//! Calls of the kernels and of cuBLAS: one function for each.

use std::ops::Range;

use candle_core::cuda_backend::cudarc;
use candle_core::{Error, Result};
use cudarc::cublas::{GemmConfig, sys::cublasOperation_t};
use cudarc::driver::{CudaSlice, CudaView, DevicePtrMut, DeviceRepr, PushKernelArg};

use super::super::engine::{Norm, NormSpans, Part};
use super::Cuda;
use super::numbers::{Slice, Stored};
use crate::cuda::launch::{BATCH_NORM, ELEMENTWISE, Kernel, Module, POOL, blocks_of, over};
use crate::kernels::{self, Statistics};

/// Channels and rows of a block of the kernels that sum columns (`batch_norm.cu`).
pub(super) const LANES: usize = 32;
pub(super) const STRIPES: usize = 8;

/// Strips of rows that sums are taken over before they are joined, at most.
const STRIPS: usize = 256;

/// A square tile of a transposition (`elementwise.cu`), and the rows of its block.
const TILE: usize = 32;

/// Where the ReLU behind a normalisation was open (`batch_norm.cu`).
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Gate {
    None = 0,
    Output = 1,
    Input = 2,
}

impl Gate {
    /// By its output `y`, where that is given.
    pub(super) fn of<S: Stored>(norm: &Norm<'_, Cuda<S>>, y: Option<Slice<'_, S>>) -> Self {
        match y {
            _ if !norm.relu => Self::None,
            Some(_) => Self::Output,
            None => Self::Input,
        }
    }
}

/// `PoolShape` of `pool.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PoolShape {
    batch: i32,
    in_h: i32,
    in_w: i32,
    out_h: i32,
    out_w: i32,
    channels: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
}

// SAFETY: nine plain integers, in C's order.
unsafe impl DeviceRepr for PoolShape {}

impl PoolShape {
    pub(super) fn new(s: &kernels::PoolShape) -> Result<Self> {
        Ok(Self {
            batch: int(s.batch)?,
            in_h: int(s.in_h)?,
            in_w: int(s.in_w)?,
            out_h: int(s.out_h())?,
            out_w: int(s.out_w())?,
            channels: int(s.channels)?,
            kernel: int(s.kernel)?,
            stride: int(s.stride)?,
            padding: int(s.padding)?,
        })
    }
}

/// Rows and channels of a matrix, and how its rows are cut into strips.
pub(super) struct Strips {
    pub rows: i64,
    pub channels: i32,
    pub strip_rows: i32,
    pub count: usize,
}

impl Strips {
    pub(super) fn of(len: usize, channels: usize) -> Result<Self> {
        let rows = len / channels;
        let strip_rows = rows.div_ceil(STRIPS).next_multiple_of(STRIPES).max(8 * STRIPES);
        Ok(Self {
            rows: rows as i64,
            channels: int(channels)?,
            strip_rows: int(strip_rows)?,
            count: rows.div_ceil(strip_rows),
        })
    }
}

/// What an affine map is taken of.
pub(super) enum Input<'a, S> {
    /// Zeros.
    None,
    Slice(Slice<'a, S>),
    /// A whole buffer, by its address, because it is a result as well.
    Buffer(u64),
}

/// No address.
pub(super) const NULL: u64 = 0;

/// An argument of a kernel that may be absent.
macro_rules! optional {
    ($call:ident, $view:expr) => {
        match &$view {
            Some(view) => $call.arg(view),
            None => $call.arg(&NULL),
        }
    };
}
pub(super) use optional;

impl<S: Stored> Cuda<S> {
    /// Memory of no particular content.
    pub(super) fn room<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: every kernel that gets it as its result writes all of it before it is read.
        unsafe { self.device.alloc(len.max(1)) }
    }

    pub(super) fn kernel(&self, module: Module, name: &str) -> Result<Kernel> {
        module.kernel(&self.device, name, S::SUFFIX)
    }

    pub(super) fn wide_kernel(&self, module: Module, name: &str) -> Result<Kernel> {
        module.kernel(&self.device, name, S::Wide::SUFFIX)
    }

    /// Numbers that a thread moves at once, and whether these are the 16 bytes that one
    /// instruction moves: runs of `run` must then be whole packs, and all of `slices` begin at one.
    pub(super) fn pack(run: usize, slices: &[Option<Slice<'_, S>>]) -> (usize, i32) {
        let wide = 16 / size_of::<S>();
        let is_whole = |slice: &Slice<'_, S>| slice.start().is_multiple_of(wide);
        match run.is_multiple_of(wide) && slices.iter().flatten().all(is_whole) {
            true => (wide, 1),
            false => (1, 0),
        }
    }

    /// out = f(a, b), number by number; out may be a.
    pub(super) fn binary(
        &self,
        name: &str,
        a: Slice<'_, S>,
        b: Slice<'_, S>,
        out: &mut CudaSlice<S>,
    ) -> Result<()> {
        let len = a.len();
        assert!(b.len() == len && out.len() >= len, "{name}: sizes must agree");
        let (at_once, wide) = Self::pack(len, &[Some(a), Some(b)]);
        let packs = (len / at_once) as i64;
        let kernel = self.kernel(ELEMENTWISE, name)?;
        let (a, b) = (a.view(), b.view());
        let mut call = kernel.call();
        call.arg(&a).arg(&b).arg(out).arg(&packs).arg(&wide);
        // SAFETY: `packs` packs are `len` numbers, which all three hold.
        unsafe { over(packs as usize, &mut call) }
    }

    /// The partial sums of `g` and `g (x − μ)`, strip by strip.
    pub(super) fn column_sums(
        &self,
        norm: &Norm<'_, Self>,
        u: Slice<'_, S>,
        x: Slice<'_, S>,
        y: Option<Slice<'_, S>>,
        gate: Gate,
        strips: &Strips,
    ) -> Result<CudaSlice<S::Wide>> {
        let channels = norm.spans.mean.len();
        let mut partial = self.room(strips.count * 2 * channels)?;
        let at = NormViews::new(norm)?;
        let (u, x, y, gate) = (u.view(), x.view(), y.map(|y| y.view()), gate as i32);
        let kernel = self.kernel(BATCH_NORM, "column_sums")?;
        let mut call = kernel.call();
        call.arg(&u).arg(&x);
        optional!(call, y);
        call.arg(&at.mean).arg(&at.inv_std).arg(&at.gamma).arg(&at.beta).arg(&gate);
        call.arg(&mut partial).arg(&strips.rows).arg(&strips.channels).arg(&strips.strip_rows);
        let grid = (channels.div_ceil(LANES), strips.count);
        // SAFETY: u, x, y hold `rows` rows of `channels`, partial two rows a strip.
        unsafe { blocks_of(&mut call, grid, (LANES as u32, STRIPES as u32)) }?;
        Ok(partial)
    }

    /// The affine map `[a | b | c]` of a gradient or a tangent.
    pub(super) fn coefficients(
        &self,
        norm: &Norm<'_, Self>,
        partial: Option<&CudaSlice<S::Wide>>,
        strips: &Strips,
        theta_dot: Option<Slice<'_, S::Wide>>,
        dtheta: Option<&mut &mut CudaSlice<S::Wide>>,
    ) -> Result<CudaSlice<S::Wide>> {
        let channels = norm.spans.mean.len();
        let mut map = self.room(3 * channels)?;
        let at = NormViews::new(norm)?;
        let count = int(if partial.is_some() { strips.count } else { 0 })?;
        let through = i32::from(norm.statistics == Statistics::Batch && partial.is_some());
        let partial = partial.map(|partial| Slice::all(partial).view());
        let direction = |span: &Range<usize>| {
            theta_dot.map(|dot| dot.part(span).map(|dot| dot.view())).transpose()
        };
        let (gamma_dot, beta_dot) = (direction(norm.spans.gamma)?, direction(norm.spans.beta)?);
        // β lies behind γ.
        let mut halves = dtheta.map(|dtheta| dtheta.split_at_mut(norm.spans.beta.start));
        let mut gradients = halves.as_mut().map(|(head, tail)| {
            (head.slice_mut(norm.spans.gamma.clone()), tail.slice_mut(0..channels))
        });
        let kernel = self.wide_kernel(BATCH_NORM, "coefficients")?;
        let mut call = kernel.call();
        optional!(call, partial);
        call.arg(&count).arg(&strips.rows).arg(&strips.channels).arg(&at.inv_std).arg(&at.gamma);
        optional!(call, gamma_dot);
        optional!(call, beta_dot);
        call.arg(&through).arg(&mut map);
        match &mut gradients {
            Some((dgamma, dbeta)) => call.arg(dgamma).arg(dbeta),
            None => call.arg(&NULL).arg(&NULL),
        };
        // SAFETY: everything holds `channels` numbers a row.
        unsafe { over(channels, &mut call) }?;
        Ok(map)
    }

    /// `out = a u + b (x − μ) + c (+ residual)`, gated before (a gradient) or behind (a tangent).
    #[allow(clippy::too_many_arguments, reason = "what the kernel takes")]
    pub(super) fn affine(
        &self,
        norm: &Norm<'_, Self>,
        map: &CudaSlice<S::Wide>,
        u: Input<'_, S>,
        x: Slice<'_, S>,
        y: Option<Slice<'_, S>>,
        (gate, gate_result): (Gate, bool),
        residual: Option<Slice<'_, S>>,
        (out, open): (u64, u64),
    ) -> Result<()> {
        let channels = norm.spans.mean.len();
        let (slice, u) = match u {
            Input::None => (None, NULL),
            Input::Slice(slice) => (Some(slice), slice.address()),
            Input::Buffer(address) => (None, address),
        };
        // y is read number by number.
        let (at_once, wide) = Self::pack(channels, &[slice, Some(x), residual]);
        let (packs, channels) = ((x.len() / at_once) as i64, int(channels)?);
        let at = NormViews::new(norm)?;
        let (x, y, residual) = (x.view(), y.map(|y| y.view()), residual.map(|r| r.view()));
        let (gate, gate_result) = (gate as i32, i32::from(gate_result));
        let kernel = self.kernel(BATCH_NORM, "affine")?;
        let mut call = kernel.call();
        call.arg(&u).arg(&x);
        optional!(call, y);
        call.arg(map).arg(&at.mean).arg(&at.inv_std).arg(&at.gamma).arg(&at.beta);
        call.arg(&gate).arg(&gate_result);
        optional!(call, residual);
        call.arg(&out).arg(&open).arg(&packs).arg(&channels).arg(&wide);
        // SAFETY: all hold as many numbers as x, and a pack never straddles two rows.
        unsafe { over(packs as usize, &mut call) }
    }

    /// θ's weights of a layer.
    pub(super) fn weight<'a>(part: Part<'a, Self>) -> Result<Slice<'a, S>> {
        Slice::of(part.theta.weights, part.span.clone())
    }

    /// `[rows, columns]` of the tensors' type to `[columns, rows]` as stored.
    pub(super) fn transpose_in(
        &self,
        from: Slice<'_, S::Wide>,
        to: &mut CudaSlice<S>,
        span: &Range<usize>,
        columns: usize,
    ) -> Result<()> {
        let rows = span.len() / columns;
        let (from, mut to) = (from.part(span)?.view(), to.slice_mut(span.clone()));
        let sides = (int(rows)?, int(columns)?);
        let kernel = self.kernel(ELEMENTWISE, "transpose_in")?;
        let mut call = kernel.call();
        call.arg(&from).arg(&mut to).arg(&sides.0).arg(&sides.1);
        let grid = (columns.div_ceil(TILE), rows.div_ceil(TILE));
        // SAFETY: both hold `rows` times `columns` numbers.
        unsafe { blocks_of(&mut call, grid, (TILE as u32, STRIPES as u32)) }
    }

    /// The other way.
    pub(super) fn transpose_out(
        &self,
        from: &CudaSlice<S>,
        to: &mut CudaSlice<S::Wide>,
        span: &Range<usize>,
        columns: usize,
    ) -> Result<()> {
        let rows = span.len() / columns;
        let (from, mut to) = (Slice::of(from, 0..span.len())?.view(), to.slice_mut(span.clone()));
        let sides = (int(columns)?, int(rows)?);
        let kernel = self.kernel(ELEMENTWISE, "transpose_out")?;
        let mut call = kernel.call();
        call.arg(&from).arg(&mut to).arg(&sides.0).arg(&sides.1);
        let grid = (rows.div_ceil(TILE), columns.div_ceil(TILE));
        // SAFETY: both hold `rows` times `columns` numbers.
        unsafe { blocks_of(&mut call, grid, (TILE as u32, STRIPES as u32)) }
    }

    /// Numbers of the tensors' type as stored, to a part of `to`.
    pub(super) fn convert_in(
        &self,
        from: Slice<'_, S::Wide>,
        to: &mut CudaSlice<S>,
        at: &Range<usize>,
    ) -> Result<()> {
        assert_eq!(from.len(), at.len(), "cuda: sizes must agree");
        let (count, from, mut to) = (from.len() as i64, from.view(), to.slice_mut(at.clone()));
        let kernel = self.kernel(ELEMENTWISE, "enter")?;
        let mut call = kernel.call();
        call.arg(&from).arg(&mut to).arg(&count);
        // SAFETY: both hold `count` numbers.
        unsafe { over(count as usize, &mut call) }
    }

    /// Stored numbers as the tensors' type, to a part of `to`.
    pub(super) fn convert_out(
        &self,
        from: &CudaSlice<S>,
        to: &mut CudaSlice<S::Wide>,
        at: &Range<usize>,
    ) -> Result<()> {
        let count = at.len() as i64;
        let (from, mut to) = (Slice::of(from, 0..at.len())?.view(), to.slice_mut(at.clone()));
        let kernel = self.kernel(ELEMENTWISE, "leave")?;
        let mut call = kernel.call();
        call.arg(&from).arg(&mut to).arg(&count);
        // SAFETY: both hold `count` numbers.
        unsafe { over(count as usize, &mut call) }
    }

    /// `C = op(A) op(B) (+ C)` by cuBLAS, whose matrices lie column by column.
    pub(super) fn multiply(
        &self,
        [transa, transb]: [cublasOperation_t; 2],
        [m, n, k]: [usize; 3],
        (a, lda): (Slice<'_, S>, usize),
        (b, ldb): (Slice<'_, S>, usize),
        c: &mut CudaSlice<S>,
        accumulate: bool,
    ) -> Result<()> {
        assert!(a.len() >= m * k && b.len() >= n * k && c.len() >= m * n, "cuda: product's sizes");
        let config = GemmConfig {
            transa,
            transb,
            m: int(m)?,
            n: int(n)?,
            k: int(k)?,
            alpha: S::from_f64(1.0),
            lda: int(lda)?,
            ldb: int(ldb)?,
            beta: S::from_f64(if accumulate { 1.0 } else { 0.0 }),
            ldc: int(m)?,
        };
        let blas = self.device.cublas_handle();
        // SAFETY: the sizes were compared above.
        unsafe { S::multiply(&blas, config, &a.view(), &b.view(), c) }
    }

    /// A pooling's kernel on x (and places) to a result of `count` numbers.
    pub(super) fn pooled(
        &self,
        name: &str,
        s: &kernels::PoolShape,
        from: Slice<'_, S>,
        places: Option<&CudaSlice<u32>>,
        to: &mut CudaSlice<S>,
        count: usize,
    ) -> Result<()> {
        let (shape, threads) = (PoolShape::new(s)?, count as i64);
        let from = from.view();
        let kernel = self.kernel(POOL, name)?;
        let mut call = kernel.call();
        call.arg(&from);
        if let Some(places) = places {
            call.arg(places);
        }
        call.arg(to).arg(&shape).arg(&threads);
        // SAFETY: sizes were compared by the caller; places come from the kernel's own forward pass.
        unsafe { over(count, &mut call) }
    }

    /// A global average's kernel.
    pub(super) fn averaged(
        &self,
        name: &str,
        (pixels, channels): (usize, usize),
        from: Slice<'_, S>,
        to: &mut CudaSlice<S>,
        count: usize,
    ) -> Result<()> {
        let (pixels, channels, threads) = (int(pixels)?, int(channels)?, count as i64);
        let from = from.view();
        let kernel = self.kernel(POOL, name)?;
        let mut call = kernel.call();
        call.arg(&from).arg(to).arg(&pixels).arg(&channels).arg(&threads);
        // SAFETY: sizes were compared by the caller.
        unsafe { over(count, &mut call) }
    }
}

/// What a normalisation's kernels read.
pub(super) struct NormViews<'a, A> {
    pub mean: CudaView<'a, A>,
    pub inv_std: CudaView<'a, A>,
    pub gamma: CudaView<'a, A>,
    pub beta: CudaView<'a, A>,
}

impl<'a, A> NormViews<'a, A> {
    pub(super) fn new<S: Stored<Wide = A>>(norm: &Norm<'a, Cuda<S>>) -> Result<Self>
    where
        A: Stored<Wide = A>,
    {
        let NormSpans { gamma, beta, mean, .. } = norm.spans;
        Ok(Self {
            mean: Slice::of(&norm.moments.values, mean.clone())?.view(),
            inv_std: Slice::of(&norm.moments.inv_std, mean.clone())?.view(),
            gamma: norm.theta.numbers.part(gamma)?.view(),
            beta: norm.theta.numbers.part(beta)?.view(),
        })
    }
}

pub(super) fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::msg(format!("cuda: {n} is more than a kernel counts")))
}

/// The address of memory that a kernel may read and write under two names.
pub(super) fn address<T>(memory: &mut CudaSlice<T>) -> u64 {
    let stream = memory.stream().clone();
    memory.device_ptr_mut(&stream).0
}
