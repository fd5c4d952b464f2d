//! The instruction set that the CPU kernels use, and how many threads.

use std::sync::OnceLock;

/// The instruction set of the f32 kernels. f64 always runs the portable ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Plain Rust, any CPU.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Kernel {
    /// The kernel in use: the best this CPU has, or the one that the variable
    /// `METAMASK_KERNEL` (`portable`, `avx2`, `avx512`) names. Read once.
    ///
    /// # Panics
    /// If the variable holds another word, or names a kernel this CPU cannot
    /// run: silently computing with another one would make results differ.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Kernel> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let best = Self::best();
            let Ok(word) = std::env::var("METAMASK_KERNEL") else { return best };
            let asked = match word.as_str() {
                "portable" => Self::Portable,
                "avx2" => Self::Avx2,
                "avx512" => Self::Avx512,
                _ => panic!("METAMASK_KERNEL: expected portable, avx2 or avx512, got `{word}`"),
            };
            assert!(asked <= best, "METAMASK_KERNEL: this CPU has no {asked:?} (best: {best:?})");
            asked
        })
    }

    /// All kernels that this CPU can run, worst first.
    #[cfg(test)]
    pub(crate) fn supported() -> impl Iterator<Item = Self> {
        let all = [Self::Portable, Self::Avx2, Self::Avx512];
        all.into_iter().filter(|kernel| *kernel <= Self::best())
    }

    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}

/// Sets the number of worker threads, once, before the first operation.
/// Results do not depend on it.
///
/// # Errors
/// If the pool is already running.
pub fn set_threads(n: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(n).build_global()
}

/// Makes Candle do its elementwise operations on the thread that asks for them, and
/// tells it once how many cores there are.
///
/// Left alone, Candle reads `/proc/cpuinfo` at every matrix product to learn that
/// number, which in small steps takes more time than the arithmetic. And it
/// spreads elementwise operations of 65,536 elements and more over threads of its
/// own, one for each processor of the machine, whatever share of it this process
/// has, and waits for the last of them in a busy loop. Beside our pool, or other
/// processes, that wait is long: a quarter of all CPU time of a small network's
/// training on two busy cores. Results do not depend on it.
///
/// Call it first thing in `main`. It does nothing once there are other threads
/// (it sets `CANDLE_NUM_THREADS` and `RAYON_NUM_THREADS`, which they might be
/// reading) and on systems where it cannot tell. A variable that is set already stays.
pub fn keep_candle_on_one_thread() {
    if !is_single_threaded() {
        return;
    }
    // Rayon's own default: our pool is as large as without the variable.
    let cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    for (variable, value) in [("CANDLE_NUM_THREADS", "1"), ("RAYON_NUM_THREADS", &cores)] {
        if std::env::var_os(variable).is_none() {
            // SAFETY: no other thread can be reading the environment.
            #[allow(unsafe_code, reason = "Candle offers no other way to tell it")]
            unsafe {
                std::env::set_var(variable, value);
            }
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn is_single_threaded() -> bool {
    // SAFETY: a lookup by name has no preconditions; the symbol, where glibc has
    // it (from 2.32), is a `char` that lives as long as the process.
    #[allow(unsafe_code, reason = "only the C library knows")]
    unsafe {
        let flag = libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr());
        !flag.is_null() && *flag.cast::<libc::c_char>() != 0
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn is_single_threaded() -> bool {
    false
}

/// The number of worker threads.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
