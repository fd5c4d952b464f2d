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

/// The number of worker threads.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
