//! Programs over the pixels of images that lie on a GPU: what the augmentation's views are made of
//! there.
//!
//! A program is written on the CPU, where the random numbers are drawn, and takes some hundred
//! bytes; all of a batch run at once ([`kernels/pixels.cu`](kernels/pixels.cu)). Every instruction is
//! the CPU's arithmetic, operation by operation, so that a view is the same bits on both.
#![allow(unsafe_code)]

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{CudaStorage, DType, Device, Result, Storage, Tensor, bail, op::BackpropOp};

use super::launch::{PIXELS, blocks_of};

/// A rectangle of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Window {
    /// Its four numbers, as an instruction has them.
    ///
    /// # Errors
    /// If it does not lie in `height` x `width`.
    fn within(self, height: usize, width: usize) -> Result<[u32; 4]> {
        let inside = |from: usize, len: usize, side: usize| {
            len > 0 && from.checked_add(len).is_some_and(|end| end <= side)
        };
        if !inside(self.top, self.height, height) || !inside(self.left, self.width, width) {
            bail!("pixel programs: {self:?} does not lie in {height} x {width}");
        }
        Ok([word(self.top)?, word(self.left)?, word(self.height)?, word(self.width)?])
    }
}

/// `Code` of `pixels.cu`, in its order.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Code {
    Load,
    Crop,
    ResizeRows,
    ResizeColumns,
    Flip,
    Brightness,
    Contrast,
    Saturation,
    Hue,
    Grayscale,
    Blur,
    Solarize,
    Store,
}

/// A program for each view of a batch, all of images of one size to views of one size.
///
/// Each is written from [`Self::begin`] to [`Self::store`]; values between run from 0 to 255. What
/// is refused is not written.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelPrograms {
    /// Number, rows and columns of the images.
    images: [usize; 3],
    /// All programs, one behind the other.
    words: Vec<u32>,
    /// Where each begins.
    starts: Vec<u32>,
    /// Rows and columns of the image at work; `None` outside a program.
    at_work: Option<(usize, usize)>,
    /// Rows and columns of the views.
    size: Option<(usize, usize)>,
    /// Values of the largest image that any of them works on.
    canvas: usize,
}

impl PixelPrograms {
    /// No program yet, for `[n, height, width]` images.
    pub fn new(images: [usize; 3]) -> Self {
        Self { images, words: Vec::new(), starts: Vec::new(), at_work: None, size: None, canvas: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Begins a program with a window of image `image`.
    ///
    /// # Errors
    /// If there is no such image, the window does not lie in it, or another program is unfinished.
    pub fn begin(&mut self, image: usize, window: Window) -> Result<()> {
        let [n, height, width] = self.images;
        if self.at_work.is_some() || image >= n {
            bail!("pixel programs: expected image {image} of {n}, and one program at a time");
        }
        let (start, image) = (word(self.words.len())?, word(image)?);
        let arguments = window.within(height, width)?;
        self.becomes(window.height, window.width)?;
        self.starts.push(start);
        self.words.push(image);
        self.instruction(Code::Load, &arguments);
        Ok(())
    }

    /// Cuts a window.
    ///
    /// # Errors
    /// If it does not lie in the image.
    pub fn crop(&mut self, window: Window) -> Result<()> {
        let (height, width) = self.at_work()?;
        let arguments = window.within(height, width)?;
        if (window.height, window.width) != (height, width) {
            self.becomes(window.height, window.width)?;
            self.instruction(Code::Crop, &arguments);
        }
        Ok(())
    }

    /// Resizes to `height` x `width`: bilinear, with antialias where it shrinks.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn resize(&mut self, height: usize, width: usize) -> Result<()> {
        let (from_height, from_width) = self.at_work()?;
        if width != from_width {
            self.becomes(from_height, width)?;
            self.instruction(Code::ResizeRows, &[word(width)?]);
        }
        if height != from_height {
            self.becomes(height, width)?;
            self.instruction(Code::ResizeColumns, &[word(height)?]);
        }
        Ok(())
    }

    /// Mirrors left and right.
    pub fn flip(&mut self) {
        self.instruction(Code::Flip, &[]);
    }

    /// v · factor, clipped.
    pub fn brightness(&mut self, factor: f32) {
        self.instruction(Code::Brightness, &[factor.to_bits()]);
    }

    /// Blend with the mean luma of the image, rounded; clipped.
    pub fn contrast(&mut self, factor: f32) {
        self.instruction(Code::Contrast, &[factor.to_bits()]);
    }

    /// Blend with the luma of the pixel, clipped.
    pub fn saturation(&mut self, factor: f32) {
        self.instruction(Code::Saturation, &[factor.to_bits()]);
    }

    /// Turns the hue by this share of the circle.
    pub fn hue(&mut self, shift: f32) {
        self.instruction(Code::Hue, &[shift.to_bits()]);
    }

    /// The luma in all three channels.
    pub fn grayscale(&mut self) {
        self.instruction(Code::Grayscale, &[]);
    }

    /// Blurs with these taps along both axes, reflecting at the border.
    ///
    /// # Errors
    /// If their number is even, or they reach beyond the reflection.
    pub fn blur(&mut self, taps: &[f32]) -> Result<()> {
        let (height, width) = self.at_work()?;
        if taps.len().is_multiple_of(2) || taps.len() / 2 >= height.min(width) {
            bail!("pixel programs: {} taps do not reflect in {height} x {width}", taps.len());
        }
        let count = word(taps.len())?;
        self.instruction(Code::Blur, &[count]);
        self.words.extend(taps.iter().map(|tap| tap.to_bits()));
        Ok(())
    }

    /// 255 − v where v ≥ threshold · 255.
    pub fn solarize(&mut self, threshold: f32) {
        self.instruction(Code::Solarize, &[threshold.to_bits()]);
    }

    /// Ends the program: (v / 255 − mean) / std of each channel.
    ///
    /// # Errors
    /// If the view's size is not that of the others.
    pub fn store(&mut self, mean: [f32; 3], std: [f32; 3]) -> Result<()> {
        let size = self.at_work()?;
        if *self.size.get_or_insert(size) != size {
            bail!("pixel programs: views must have one size, got {:?} and {size:?}", self.size);
        }
        let [m, s] = [mean, std].map(|values| values.map(f32::to_bits));
        self.instruction(Code::Store, &[m[0], m[1], m[2], s[0], s[1], s[2]]);
        self.at_work = None;
        Ok(())
    }

    /// Runs all of them on `images`, `[n, height, width, 3]` bytes on a GPU: the views,
    /// `[programs, height, width, 3]`.
    ///
    /// # Errors
    /// If the images are others than the programs are for, or not on a GPU, or memory runs out.
    pub fn run(&self, images: &Tensor) -> Result<Tensor> {
        let [n, height, width] = self.images;
        let Some((out_height, out_width)) = self.size.filter(|_| self.at_work.is_none()) else {
            bail!("pixel programs: expected whole programs, got {}", self.len());
        };
        if images.dims() != [n, height, width, 3] || images.dtype() != DType::U8 {
            bail!(
                "pixel programs: expected {n} images of {height} x {width} bytes, got {:?} of {:?}",
                images.dims(),
                images.dtype()
            );
        }
        let images = images.contiguous()?;
        let (storage, layout) = images.storage_and_layout();
        let (Storage::Cuda(storage), Device::Cuda(device)) = (&*storage, images.device()) else {
            bail!("pixel programs: expected images on a GPU, got {:?}", images.device());
        };
        let bytes = storage.as_cuda_slice::<u8>()?;
        let bytes =
            bytes.slice(layout.start_offset()..layout.start_offset() + n * height * width * 3);
        let at_once = (SCRATCH / (2 * self.canvas)).max(1);
        let views = self.launch(device, &bytes, out_height * out_width * 3, at_once)?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(views, device.clone()));
        let shape = (self.len(), out_height, out_width, 3);
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }

    fn launch(
        &self,
        device: &CudaDevice,
        images: &CudaView<'_, u8>,
        view_len: usize,
        at_once: usize,
    ) -> Result<CudaSlice<f32>> {
        let stream = device.cuda_stream();
        let words = stream.clone_htod(&self.words).w()?;
        let starts = stream.clone_htod(&self.starts).w()?;
        // SAFETY: every program writes the whole of its view.
        let mut views = unsafe { device.alloc::<f32>(self.len() * view_len) }?;
        let at_once = at_once.min(self.len());
        // SAFETY: a program reads of it only what it wrote.
        let mut scratch = unsafe { device.alloc::<f32>(at_once * 2 * self.canvas) }?;
        let kernel = PIXELS.kernel(device, "pixel_programs", "u8")?;
        let (canvas, out_len) = (self.canvas as i64, view_len as i64);
        let [_, height, width] = self.images.map(|side| side as i32);
        for first in (0..self.len()).step_by(at_once) {
            let count = at_once.min(self.len() - first);
            let starts = starts.slice(first..first + count);
            let mut views = views.slice_mut(first * view_len..(first + count) * view_len);
            let mut call = kernel.call();
            call.arg(images).arg(&words).arg(&starts).arg(&mut scratch).arg(&mut views);
            call.arg(&canvas).arg(&out_len).arg(&height).arg(&width);
            // SAFETY: programs are made by the functions above, which saw to it that every window
            // lies in its image, every reflection in its canvas and every canvas in the scratch.
            unsafe { blocks_of(&mut call, (count, 1), (THREADS, 1)) }?;
        }
        Ok(views)
    }

    fn at_work(&self) -> Result<(usize, usize)> {
        match self.at_work {
            Some(size) => Ok(size),
            None => bail!("pixel programs: expected an instruction inside a program"),
        }
    }

    fn instruction(&mut self, code: Code, arguments: &[u32]) {
        self.words.push(code as u32);
        self.words.extend_from_slice(arguments);
    }

    /// The image at work has another size from here on.
    fn becomes(&mut self, height: usize, width: usize) -> Result<()> {
        let len = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(3));
        // The kernel counts with 32 bits.
        let Some(len @ 1..=0x7fff_ffff) = len else {
            bail!("pixel programs: an image cannot be {height} x {width}");
        };
        // The mean luma leaves eight sums for every 1024 pixels there.
        self.canvas = self.canvas.max(len).max(8);
        self.at_work = Some((height, width));
        Ok(())
    }
}

/// Threads of a program's block.
const THREADS: u32 = 256;

/// Numbers of scratch memory, about: 256 MiB. More programs than find room run one after the other.
const SCRATCH: usize = 64 << 20;

fn word(n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => bail!("pixel programs: {n} is more than a kernel counts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_reach_outside_never_reach_a_gpu() -> Result<()> {
        let whole = Window { top: 0, left: 0, height: 5, width: 7 };
        let mut programs = PixelPrograms::new([2, 5, 7]);
        assert!(programs.crop(whole).is_err(), "no program has begun");
        assert!(programs.begin(2, whole).is_err(), "there are two images");
        assert!(programs.begin(0, Window { left: 1, ..whole }).is_err(), "a column too far right");
        assert_eq!(programs, PixelPrograms::new([2, 5, 7]));
        programs.begin(1, whole)?;
        assert!(programs.begin(1, whole).is_err(), "one at a time");
        assert!(programs.blur(&[0.25; 4]).is_err(), "an even kernel has no middle");
        assert!(programs.blur(&[0.1; 11]).is_err(), "five rows reflect four");
        programs.blur(&[0.1; 9])?;
        programs.resize(3, 3)?;
        let before = programs.clone();
        assert!(programs.crop(Window { top: usize::MAX, ..whole }).is_err());
        assert!(programs.resize(0, 3).is_err());
        assert!(programs.resize(3, usize::MAX).is_err(), "more than a kernel counts");
        assert_eq!(programs, before, "what is refused is not written");
        Ok(())
    }

    #[test]
    fn views_have_one_size_and_run_on_a_gpu() -> Result<()> {
        let whole = Window { top: 0, left: 0, height: 4, width: 4 };
        let mut programs = PixelPrograms::new([1, 4, 4]);
        let images = Tensor::zeros((1, 4, 4, 3), DType::U8, &Device::Cpu)?;
        assert!(programs.run(&images).is_err(), "nothing to run");
        programs.begin(0, whole)?;
        assert!(programs.run(&images).is_err(), "an unfinished program");
        programs.store([0.0; 3], [1.0; 3])?;
        assert!(programs.run(&images).is_err(), "not on a GPU");
        programs.begin(0, Window { height: 3, ..whole })?;
        assert!(programs.store([0.0; 3], [1.0; 3]).is_err());
        Ok(())
    }

    #[test]
    fn a_gpu_runs_programs_in_parts() -> Result<()> {
        let Ok(Device::Cuda(device)) = super::super::cuda_device(0) else { return Ok(()) };
        let pixels: Vec<u8> = (0..3 * 4 * 5 * 3).map(|i| (i * 37 % 256) as u8).collect();
        let mut programs = PixelPrograms::new([3, 4, 5]);
        for view in 0..5 {
            programs.begin(view % 3, Window { top: view / 3, left: 0, height: 2, width: 5 })?;
            programs.flip();
            programs.store([0.0; 3], [1.0; 3])?;
        }
        let on_gpu = device.cuda_stream().clone_htod(&pixels).w()?;
        let view_len = 2 * 5 * 3;
        for at_once in [2, 5] {
            let views = programs.launch(&device, &on_gpu.slice(..), view_len, at_once)?;
            let views = device.cuda_stream().clone_dtoh(&views).w()?;
            for (i, found) in views.iter().enumerate() {
                let (view, y, x, channel) = (i / view_len, i / 15 % 2, 4 - i / 3 % 5, i % 3);
                let (image, row) = (view % 3, view / 3 + y);
                let expected = f32::from(pixels[((image * 4 + row) * 5 + x) * 3 + channel]) / 255.0;
                assert_eq!(*found, expected, "number {i}, {at_once} at once");
            }
        }
        Ok(())
    }
}
