//! The device's memory: pieces of the host's, each known by its address.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::ptx;

static PIECES: RwLock<BTreeMap<u64, usize>> = RwLock::new(BTreeMap::new());

/// Bytes of the pieces, and the most that they were.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// As the driver aligns.
const ALIGNMENT: usize = 256;

fn pieces() -> RwLockReadGuard<'static, BTreeMap<u64, usize>> {
    PIECES.read().unwrap_or_else(PoisonError::into_inner)
}

fn pieces_mut() -> RwLockWriteGuard<'static, BTreeMap<u64, usize>> {
    PIECES.write().unwrap_or_else(PoisonError::into_inner)
}

/// `bytes` bytes, none of which is a number yet: all bits are set, as a NaN's are.
pub fn allocate(bytes: usize) -> Option<u64> {
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
    // SAFETY: the size is not 0.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: `bytes` bytes were given.
    unsafe { start.write_bytes(0xff, bytes) };
    pieces_mut().insert(start as u64, bytes);
    let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(in_use, Ordering::Relaxed);
    Some(start as u64)
}

/// Gives a piece back; whether it was one.
pub fn free(start: u64) -> bool {
    let Some(bytes) = pieces_mut().remove(&start) else { return false };
    IN_USE.fetch_sub(bytes, Ordering::Relaxed);
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).expect("as it was allocated");
    // SAFETY: allocated above with this layout, and given back once.
    unsafe { dealloc(start as *mut u8, layout) };
    true
}

/// Bytes in use, now and at most.
pub fn in_use() -> [usize; 2] {
    [IN_USE.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed)]
}

/// Whether `bytes` bytes from `start` on lie in one piece.
pub fn holds(start: u64, bytes: usize) -> bool {
    let pieces = pieces();
    let Some((&from, &len)) = pieces.range(..=start).next_back() else { return false };
    (start - from) as usize <= len && bytes <= len - (start - from) as usize
}

/// The pieces at one time, for a kernel: nothing is allocated or freed while it runs.
pub struct Snapshot {
    /// Starts and ends.
    pieces: Vec<(u64, u64)>,
    /// The one that was asked for last.
    last: std::cell::Cell<(u64, u64)>,
}

impl Snapshot {
    pub fn take() -> Self {
        let pieces = pieces().iter().map(|(&start, &len)| (start, start + len as u64)).collect();
        Self { pieces, last: Default::default() }
    }
}

impl ptx::Memory for Snapshot {
    fn holds(&self, address: u64, bytes: usize) -> bool {
        let within = |(start, end): (u64, u64)| {
            start <= address && address.checked_add(bytes as u64).is_some_and(|stop| stop <= end)
        };
        if within(self.last.get()) {
            return true;
        }
        let behind = self.pieces.partition_point(|&(start, _)| start <= address);
        let found = behind.checked_sub(1).map(|at| self.pieces[at]).filter(|&piece| within(piece));
        found.inspect(|&piece| self.last.set(piece)).is_some()
    }

    fn load(&self, address: u64, bytes: usize) -> u64 {
        let mut all = [0; 8];
        // SAFETY: the machine asks only for what `holds` found allocated.
        unsafe { (address as *const u8).copy_to_nonoverlapping(all.as_mut_ptr(), bytes) };
        u64::from_le_bytes(all)
    }

    fn store(&self, address: u64, bytes: usize, value: u64) {
        let all = value.to_le_bytes();
        // SAFETY: the machine asks only for what `holds` found allocated.
        unsafe { all.as_ptr().copy_to_nonoverlapping(address as *mut u8, bytes) };
    }
}
