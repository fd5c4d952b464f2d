//! The driver's interface: one device, whose streams do at once what they are asked.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use crate::{memory, ptx};

type Status = i32;
type Pointer = *mut c_void;

const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 1;
const OUT_OF_MEMORY: Status = 2;
const INVALID_DEVICE: Status = 101;
const INVALID_PTX: Status = 218;
const NOT_FOUND: Status = 500;
const ILLEGAL_ADDRESS: Status = 700;
const NOT_SUPPORTED: Status = 801;

/// A handle that nobody looks behind.
const HANDLE: Pointer = std::ptr::without_provenance_mut(1);

/// What the device says of itself.
const MULTIPROCESSORS: i32 = 4;
const COMPUTE_CAPABILITY: (i32, i32) = (8, 0);
const TOTAL_MEMORY: usize = 8 << 30;

/// Writes a result where the caller wants it.
unsafe fn give<T>(to: *mut T, value: T) -> Status {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: as the driver asks of its callers.
    unsafe { *to = value };
    SUCCESS
}

macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) -> Status {
            SUCCESS
        }
    )*};
}

nothing_to_do! {
    cuInit(u32);
    cuCtxSetCurrent(Pointer);
    cuCtxSynchronize();
    cuCtxSetFlags(u32);
    cuCtxSetLimit(i32, usize);
    cuCtxSetCacheConfig(i32);
    cuDevicePrimaryCtxRelease_v2(i32);
    cuStreamDestroy_v2(Pointer);
    cuStreamSynchronize(Pointer);
    cuStreamWaitEvent(Pointer, Pointer, u32);
    cuEventDestroy_v2(Pointer);
    cuEventRecord(Pointer, Pointer);
    cuEventSynchronize(Pointer);
    cuEventQuery(Pointer);
    cuFuncSetAttribute(Pointer, i32, i32);
    cuFuncSetCacheConfig(Pointer, i32);
    cuMemPoolSetAttribute(Pointer, i32, Pointer);
    cuMemPoolTrimTo(Pointer, usize);
}

macro_rules! handles {
    ($($name:ident($($argument:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(to: *mut Pointer, $(_: $argument),*) -> Status {
            // SAFETY: the caller's place.
            unsafe { give(to, HANDLE) }
        }
    )*};
}

handles! {
    cuCtxGetCurrent();
    cuDevicePrimaryCtxRetain(i32);
    cuStreamCreate(u32);
    cuStreamCreateWithPriority(u32, i32);
    cuEventCreate(u32);
    cuDeviceGetDefaultMemPool(i32);
    cuDeviceGetMemPool(i32);
}

macro_rules! refused {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> Status {
            eprintln!("CUDA: {} is not emulated", stringify!($name));
            NOT_SUPPORTED
        }
    )*};
}

refused! {
    cuCtxCreate_v4 cuCtxGetCacheConfig cuCtxGetLimit cuCtxGetStreamPriorityRange
    cuDestroyExternalMemory cuExternalMemoryGetMappedBuffer cuImportExternalMemory
    cuGraphDestroy cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload
    cuLaunchCooperativeKernel cuLaunchHostFunc cuMemAdvise_v2 cuMemAllocFromPoolAsync
    cuMemAllocManaged cuMemFreeHost cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy
    cuMemPrefetchAsync_v2 cuMemcpyPeerAsync cuModuleGetGlobal_v2 cuModuleLoad
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags cuStreamAttachMemAsync cuStreamBeginCapture_v2
    cuStreamEndCapture cuDeviceSetMemPool cuFuncGetAttribute
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(to: *mut i32) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, 13_000) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(to: *mut i32) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, 1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(to: *mut i32, ordinal: i32) -> Status {
    match ordinal {
        // SAFETY: the caller's place.
        0 => unsafe { give(to, 0) },
        _ => INVALID_DEVICE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(to: *mut i32, attribute: i32, _: i32) -> Status {
    let value = match attribute {
        // Threads of a block, and its sides; the grid's sides; shared memory; a warp.
        1 => 1024,
        2 | 3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65_535,
        8 => 48 << 10,
        10 => 32,
        16 => MULTIPROCESSORS,
        75 => COMPUTE_CAPABILITY.0,
        76 => COMPUTE_CAPABILITY.1,
        // Memory pools.
        115 => 1,
        _ => 0,
    };
    // SAFETY: the caller's place.
    unsafe { give(to, value) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(to: *mut c_char, len: i32, _: i32) -> Status {
    let name = c"emulated GPU".to_bytes_with_nul();
    let count = name.len().min(usize::try_from(len).unwrap_or(0));
    // SAFETY: the caller gives `len` bytes.
    unsafe { name.as_ptr().cast::<c_char>().copy_to_nonoverlapping(to, count) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(to: *mut [u8; 16], _: i32) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, [0; 16]) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(to: *mut usize, _: i32) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, TOTAL_MEMORY) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    let [in_use, _] = memory::in_use();
    // SAFETY: the caller's places.
    unsafe {
        give(free, TOTAL_MEMORY.saturating_sub(in_use));
        give(total, TOTAL_MEMORY)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolGetAttribute(_: Pointer, attribute: i32, to: *mut u64) -> Status {
    let [in_use, peak] = memory::in_use();
    // SAFETY: the caller's place, of 64 bits for these.
    unsafe {
        match attribute {
            7 => give(to, in_use as u64),
            8 => give(to, peak as u64),
            _ => INVALID_VALUE,
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(_: Pointer, to: *mut i32) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(to: *mut f32, _: Pointer, _: Pointer) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, 0.0) }
}

fn message(status: Status) -> &'static CStr {
    match status {
        SUCCESS => c"success",
        INVALID_VALUE => c"invalid value",
        OUT_OF_MEMORY => c"out of memory",
        INVALID_DEVICE => c"there is one emulated device, number 0",
        INVALID_PTX => c"PTX that cannot be read",
        NOT_FOUND => c"not found",
        ILLEGAL_ADDRESS => c"an illegal access, described on stderr",
        _ => c"not emulated",
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(status: Status, to: *mut *const c_char) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, message(status).as_ptr()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(status: Status, to: *mut *const c_char) -> Status {
    // SAFETY: the caller's place.
    unsafe { give(to, message(status).as_ptr()) }
}

// Memory.

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> Status {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's place.
    unsafe { cuMemAllocAsync(to, bytes, HANDLE) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, bytes: usize, _: Pointer) -> Status {
    match memory::allocate(bytes) {
        // SAFETY: the caller's place.
        Some(start) => unsafe { give(to, start) },
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(start: u64) -> Status {
    if start == 0 || memory::free(start) { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(start: u64, _: Pointer) -> Status {
    cuMemFree_v2(start)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8_v2(start: u64, byte: u8, count: usize) -> Status {
    if !memory::holds(start, count) {
        return ILLEGAL_ADDRESS;
    }
    // SAFETY: found allocated.
    unsafe { (start as *mut u8).write_bytes(byte, count) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(start: u64, byte: u8, count: usize, _: Pointer) -> Status {
    // SAFETY: checked there.
    unsafe { cuMemsetD8_v2(start, byte, count) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const u8, bytes: usize) -> Status {
    if !memory::holds(to, bytes) {
        return ILLEGAL_ADDRESS;
    }
    // SAFETY: the target was found allocated, the source is the caller's.
    unsafe { from.copy_to(to as *mut u8, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const u8,
    bytes: usize,
    _: Pointer,
) -> Status {
    // SAFETY: as there.
    unsafe { cuMemcpyHtoD_v2(to, from, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, bytes: usize) -> Status {
    if !memory::holds(from, bytes) {
        return ILLEGAL_ADDRESS;
    }
    // SAFETY: the source was found allocated, the target is the caller's.
    unsafe { (from as *const u8).copy_to(to, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut u8,
    from: u64,
    bytes: usize,
    _: Pointer,
) -> Status {
    // SAFETY: as there.
    unsafe { cuMemcpyDtoH_v2(to, from, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Status {
    if !memory::holds(to, bytes) || !memory::holds(from, bytes) {
        return ILLEGAL_ADDRESS;
    }
    // SAFETY: both were found allocated.
    unsafe { (from as *const u8).copy_to(to as *mut u8, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _: Pointer) -> Status {
    // SAFETY: as there.
    unsafe { cuMemcpyDtoD_v2(to, from, bytes) }
}

// Kernels.

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(to: *mut Pointer, image: *const c_char) -> Status {
    // SAFETY: PTX is text that ends with a zero.
    let Ok(text) = unsafe { CStr::from_ptr(image) }.to_str() else { return INVALID_PTX };
    match ptx::Module::parse(text) {
        // SAFETY: the caller's place.
        Ok(module) => unsafe { give(to, Box::into_raw(Box::new(module)).cast()) },
        Err(error) => {
            eprintln!("CUDA: {error}");
            INVALID_PTX
        }
    }
}

/// Modules stay: kernels may outlive what loaded them.
#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(_: Pointer) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    to: *mut Pointer,
    module: Pointer,
    name: *const c_char,
) -> Status {
    // SAFETY: a module that was loaded above, and text that ends with a zero.
    let (module, name) = unsafe { (&*module.cast::<ptx::Module>(), CStr::from_ptr(name)) };
    match module.kernel(&name.to_string_lossy()) {
        // SAFETY: the caller's place. One for each kernel of the module stays for good.
        Ok(kernel) => unsafe { give(to, Arc::into_raw(kernel).cast_mut().cast()) },
        Err(error) => {
            eprintln!("CUDA: {error}");
            NOT_FOUND
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    kernel: Pointer,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    _stream: Pointer,
    arguments: *const *const u8,
    _extra: Pointer,
) -> Status {
    // SAFETY: a kernel of `cuModuleGetFunction`.
    let kernel = unsafe { &*kernel.cast::<ptx::Kernel>() };
    let threads = u64::from(block_x) * u64::from(block_y) * u64::from(block_z);
    if [grid_x, grid_y, grid_z].contains(&0) || threads == 0 || threads > 1024 {
        return INVALID_VALUE;
    }
    let mut parameters = Vec::new();
    for (i, &(bytes, offset)) in kernel.parameters.iter().enumerate() {
        parameters.resize(offset + bytes, 0);
        // SAFETY: the caller gives a place for every parameter, each as long as its type.
        unsafe {
            let argument = *arguments.add(i);
            argument.copy_to_nonoverlapping(parameters[offset..].as_mut_ptr(), bytes);
        }
    }
    let launch = ptx::Launch {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared: dynamic_shared as usize,
        parameters: &parameters,
    };
    match kernel.run(&launch, &memory::Snapshot::take()) {
        Ok(()) => SUCCESS,
        Err(error) => {
            eprintln!("CUDA: {error}");
            ILLEGAL_ADDRESS
        }
    }
}
