//! What the process does with memory that was freed, and where there is none.

use std::alloc::{GlobalAlloc, Layout, System};

use candle_core::{Device, Result};

/// The system's allocator, for `#[global_allocator]`. Where it has no memory left, a
/// function of the program's tells so and ends it; Rust's own way is a message about an
/// allocation and SIGABRT.
///
/// The function is called in the middle of an allocation: it may write a line and exit,
/// and must not allocate.
#[derive(Debug)]
pub struct Allocator {
    refused: fn(n_bytes: usize) -> !,
}

impl Allocator {
    /// `refused` is given the size of the block that there is no memory for.
    pub const fn new(refused: fn(n_bytes: usize) -> !) -> Self {
        Self { refused }
    }

    fn expect(&self, at: *mut u8, n_bytes: usize) -> *mut u8 {
        if at.is_null() { (self.refused)(n_bytes) } else { at }
    }
}

// SAFETY: the system's allocator does the work; what it returns is passed on as it is.
#[allow(unsafe_code, reason = "an allocator has no other interface")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.expect(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.expect(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.expect(unsafe { System.realloc(at, layout, n_bytes) }, n_bytes)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Asks the allocator to keep freed memory for the next allocation.
///
/// Candle allocates every tensor anew. By default glibc gets large blocks from
/// the system and hands them back at once, so each costs a page fault for every
/// 4 KiB when it is first written: in a training step that is a large part of
/// all small operations. Call it once, first thing in `main`. The process then
/// keeps the most it ever needed. On other allocators nothing happens.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Blocks up to this size (1 GiB) come from the heap, which is kept.
        const LARGEST_KEPT: libc::c_int = 1 << 30;
        /// glibc before 2.35 takes at most this; it then must not map blocks at all.
        const LARGEST_TAKEN: libc::c_int = 32 << 20;
        /// The heap grows by this much more than asked for, so less often.
        const GROWTH: libc::c_int = 64 << 20;

        // SAFETY: mallopt takes integers and returns 0 for what it does not accept.
        #[allow(unsafe_code, reason = "the C library has no other interface")]
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_KEPT) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_TAKEN);
                libc::mallopt(libc::M_MMAP_MAX, 0);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, GROWTH);
        }
    }
}

/// Gives memory that was freed back to the system, so that what the process holds
/// is what it uses. The opposite of [`keep_freed_memory`], once. On other allocators
/// than glibc's nothing happens.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim takes an integer and touches nothing that is in use.
        #[allow(unsafe_code, reason = "the C library has no other interface")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Bytes that a GPU has free, or that the program keeps there for itself; `None` of anything else.
///
/// # Errors
/// If the driver does not say.
pub fn free_gpu_memory(device: &Device) -> Result<Option<usize>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::free_memory(device).map(Some),
        _ => Ok(None),
    }
}

/// The most bytes of a GPU's memory that this program had in use at once, libraries' own and freed
/// ones left out; `None` of anything else, and where the driver does not say.
pub fn peak_gpu_memory(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::peak_memory(device),
        _ => None,
    }
}
