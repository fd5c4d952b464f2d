//! 256-bit vectors of f32.

use std::arch::x86_64::*;

use super::Simd;

/// Eight f32. Needs AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(__m256);

/// Ones in the first `lanes` lanes.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn first(lanes: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), index)
    }
}

impl Avx2 {
    /// The lanes rounded to bfloat16 as `super::bfloat16` does it, in the lower
    /// halves of the words.
    ///
    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    unsafe fn bfloat16(self) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
        }
    }
}

// SAFETY (every block below): the caller promises the instructions and, for
// loads and stores, the memory of the lanes touched; masked-off lanes touch none.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl Simd for Avx2 {
    type Scalar = f32;
    const LANES: usize = 8;
    const TILE_VECTORS: usize = 2;
    const TILE_SUMS: usize = 12;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, lanes: usize) -> Self {
        Self(unsafe { _mm256_maskload_ps(from, first(lanes)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, lanes: usize) {
        unsafe { _mm256_maskstore_ps(to, first(lanes), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn pair(self, odd: Self) -> Self {
        Self(unsafe {
            let odd = _mm256_slli_epi32::<16>(odd.bfloat16());
            _mm256_castsi256_ps(_mm256_or_si256(self.bfloat16(), odd))
        })
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut f32) {
        unsafe {
            // Packs each half of the register by itself: the wanted words lie apart.
            let words = self.bfloat16();
            let packed = _mm256_packus_epi32(words, words);
            let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, factor: Self, addend: Self) -> Self {
        Self(unsafe {
            let [a, b] = [self.0, factor.0].map(|x| _mm256_castps_si256(x));
            let upper = _mm256_set1_epi32(-0x1_0000);
            let even = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let odd = |x| _mm256_castsi256_ps(_mm256_and_si256(x, upper));
            _mm256_fmadd_ps(even(a), even(b), _mm256_fmadd_ps(odd(a), odd(b), addend.0))
        })
    }

    #[inline(always)]
    unsafe fn where_positive(self, gate: Self) -> Self {
        Self(unsafe {
            let open = _mm256_cmp_ps::<_CMP_GT_OQ>(gate.0, _mm256_setzero_ps());
            _mm256_and_ps(open, self.0)
        })
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // Of a NaN and a number the instruction takes its second operand.
        Self(unsafe { _mm256_max_ps(_mm256_setzero_ps(), self.0) })
    }
}
