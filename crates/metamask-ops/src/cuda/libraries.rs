//! NVIDIA's libraries, opened when a GPU is asked for.
//!
//! Candle links with them, and a program that is linked with the driver does not start where there
//! is none. So every function that is called has a namesake here, which jumps to where the library,
//! once it is open, has the real one. The linker finds these first, and nothing is left that the
//! program would need before it starts (`cargo xtask cuda-toolchain --build` looks).
#![allow(unsafe_code, non_snake_case, non_upper_case_globals)]

use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use candle_core::{Result, bail};

/// A library's file, under the names it may have, and the functions that are called in it.
struct Library {
    files: &'static [&'static CStr],
    functions: &'static [(&'static str, &'static AtomicPtr<c_void>)],
}

/// Where a function goes that was called before its library was opened, or that an old library
/// does not have.
extern "C" fn missing() -> ! {
    // Nothing unwinds into C: this ends the program.
    panic!("a function of NVIDIA's libraries was called that the installed ones do not have")
}

macro_rules! libraries {
    ($($library:ident: $files:expr => $($function:ident)*;)*) => {
        mod slots {
            use super::*;

            $($(pub static $function: AtomicPtr<c_void> = AtomicPtr::new(missing as *mut c_void);)*)*
        }

        $($(
            /// Jumps to the library's function with everything as it came.
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            extern "C" fn $function() {
                #[cfg(target_arch = "x86_64")]
                std::arch::naked_asm!("jmp qword ptr [rip + {slot}]", slot = sym slots::$function);
                #[cfg(target_arch = "aarch64")]
                std::arch::naked_asm!(
                    "adrp x16, {slot}",
                    "ldr x16, [x16, :lo12:{slot}]",
                    "br x16",
                    slot = sym slots::$function,
                );
            }
        )*)*

        const LIBRARIES: &[Library] = &[$(Library {
            files: $files,
            functions: &[$((stringify!($function), &slots::$function)),*],
        }),*];
    };
}

libraries! {
    driver: &[c"libcuda.so.1"] =>
        cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize cuDeviceGet
        cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetMemPool cuDeviceGetName cuDeviceTotalMem_v2
        cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuEventCreate cuEventDestroy_v2
        cuEventElapsedTime_v2 cuEventQuery cuEventRecord cuEventSynchronize cuFuncGetAttribute
        cuFuncSetAttribute cuGetErrorName cuGetErrorString cuInit cuLaunchKernel cuMemAllocAsync
        cuMemAlloc_v2 cuMemFreeAsync cuMemFree_v2 cuMemGetInfo_v2 cuMemPoolGetAttribute
        cuMemPoolSetAttribute cuMemcpyDtoDAsync_v2
        cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2 cuMemcpyPeerAsync cuMemsetD8Async
        cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamCreate
        cuStreamDestroy_v2 cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent;
    cublas: &[c"libcublas.so.13", c"libcublas.so.12", c"libcublas.so"] =>
        cublasCreate_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasGemmEx
        cublasGemmStridedBatchedEx cublasSetMathMode cublasSetStream_v2 cublasSgemmStridedBatched
        cublasSgemm_v2;
    cudnn: &[c"libcudnn.so.9", c"libcudnn.so"] =>
        cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter cudnnConvolutionForward
        cudnnCreate cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor
        cudnnCreateTensorDescriptor cudnnDestroy cudnnDestroyConvolutionDescriptor
        cudnnDestroyFilterDescriptor cudnnDestroyTensorDescriptor
        cudnnGetConvolutionBackwardDataWorkspaceSize cudnnGetConvolutionBackwardFilterWorkspaceSize
        cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize
        cudnnSetConvolution2dDescriptor cudnnSetConvolutionMathType cudnnSetFilter4dDescriptor
        cudnnSetStream cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx;
    curand: &[c"libcurand.so.10", c"libcurand.so"] =>
        curandCreateGenerator curandDestroyGenerator curandGenerateNormal
        curandGenerateNormalDouble curandGenerateUniform curandGenerateUniformDouble
        curandSetPseudoRandomGeneratorSeed curandSetStream;
}

/// Opens the libraries, once.
///
/// # Errors
/// If one of them cannot be opened, with what the loader said.
pub(super) fn load() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    match LOADED.get_or_init(|| LIBRARIES.iter().try_for_each(Library::open)) {
        Ok(()) => Ok(()),
        Err(error) => bail!("no GPU can be used: {error}"),
    }
}

impl Library {
    fn open(&self) -> std::result::Result<(), String> {
        let mut said = String::new();
        for file in self.files {
            // SAFETY: NVIDIA's libraries; their constructors are trusted as Candle's linking trusts
            // them.
            let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if library.is_null() {
                // Of several names the first tells most.
                if said.is_empty() {
                    said = loader_error();
                }
                continue;
            }
            for (name, slot) in self.functions {
                let name = CString::new(*name).expect("no name holds a zero");
                // SAFETY: an open library, which is never closed.
                let function = unsafe { libc::dlsym(library, name.as_ptr()) };
                if !function.is_null() {
                    slot.store(function, Ordering::Release);
                }
            }
            return Ok(());
        }
        Err(said)
    }
}

fn loader_error() -> String {
    // SAFETY: text that the loader keeps until its next call, or null.
    let message = unsafe {
        let message = libc::dlerror();
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    message.unwrap_or_else(|| "the loader gave no reason".to_owned())
}
