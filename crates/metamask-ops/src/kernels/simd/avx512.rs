//! 512-bit vectors of f32.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::Simd;

/// Sixteen f32. Needs AVX-512F, and AVX512_BF16 if BF16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512<const BF16: bool>(__m512);

/// Ones in the first `lanes` bits.
#[inline(always)]
fn first(lanes: usize) -> __mmask16 {
    ((1_u32 << lanes) - 1) as __mmask16
}

// SAFETY (every block below): the caller promises the instructions and, for
// loads and stores, the memory of the lanes touched; masked-off lanes touch none.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl<const BF16: bool> Avx512<BF16> {
    /// The lanes rounded to bfloat16, in the lower halves of the words. Without
    /// the instruction as `super::bfloat16` does it.
    #[inline(always)]
    unsafe fn bfloat16(self) -> __m512i {
        unsafe {
            if BF16 {
                let halves = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
                return _mm512_cvtepu16_epi32(halves);
            }
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_set1_epi32(0x0040_0000);
            let rounded = _mm512_mask_or_epi32(rounded, nan, bits, quiet);
            _mm512_srli_epi32::<16>(rounded)
        }
    }
}

// SAFETY: as above.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl<const BF16: bool> Simd for Avx512<BF16> {
    type Scalar = f32;
    const LANES: usize = 16;
    const TILE_VECTORS: usize = 4;
    const TILE_SUMS: usize = 24;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, lanes: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(first(lanes), from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, lanes: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(lanes), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn pair(self, odd: Self) -> Self {
        Self(unsafe {
            let odd = _mm512_slli_epi32::<16>(odd.bfloat16());
            _mm512_castsi512_ps(_mm512_or_si512(self.bfloat16(), odd))
        })
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(self.bfloat16()));
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, factor: Self, addend: Self) -> Self {
        Self(unsafe {
            if BF16 {
                let [a, b] = [self.0, factor.0].map(|x| transmute::<__m512, __m512bh>(x));
                return Self(_mm512_dpbf16_ps(addend.0, a, b));
            }
            let [a, b] = [self.0, factor.0].map(|x| _mm512_castps_si512(x));
            let even = |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let upper = _mm512_set1_epi32(-0x1_0000);
            let odd = |x| _mm512_castsi512_ps(_mm512_and_si512(x, upper));
            _mm512_fmadd_ps(even(a), even(b), _mm512_fmadd_ps(odd(a), odd(b), addend.0))
        })
    }

    #[inline(always)]
    unsafe fn where_positive(self, gate: Self) -> Self {
        Self(unsafe {
            let open = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate.0, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(open, self.0)
        })
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // Of a NaN and a number the instruction takes its second operand.
        Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }
}
