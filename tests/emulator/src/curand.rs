//! cuRAND, as far as Candle needs it to start: nothing of ours draws from it.

use std::ffi::c_void;

type Handle = *mut c_void;

const SUCCESS: i32 = 0;
const INTERNAL_ERROR: i32 = 999;

#[unsafe(no_mangle)]
unsafe extern "C" fn curandCreateGenerator(to: *mut Handle, _kind: i32) -> i32 {
    // SAFETY: a place for a handle.
    unsafe { *to = std::ptr::without_provenance_mut(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn curandDestroyGenerator(_: Handle) -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn curandSetStream(_: Handle, _: Handle) -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn curandSetPseudoRandomGeneratorSeed(_: Handle, _: u64) -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn curandSetGeneratorOffset(_: Handle, _: u64) -> i32 {
    SUCCESS
}

macro_rules! refused {
    ($($name:ident($($argument:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) -> i32 {
            eprintln!("cuRAND: {} is not emulated", stringify!($name));
            INTERNAL_ERROR
        }
    )*};
}

refused! {
    curandGenerateUniform(Handle, *mut f32, usize);
    curandGenerateUniformDouble(Handle, *mut f64, usize);
    curandGenerateNormal(Handle, *mut f32, usize, f32, f32);
    curandGenerateNormalDouble(Handle, *mut f64, usize, f64, f64);
    curandGenerateLogNormal(Handle, *mut f32, usize, f32, f32);
    curandGenerateLogNormalDouble(Handle, *mut f64, usize, f64, f64);
    curandGenerate(Handle, *mut u32, usize);
}
