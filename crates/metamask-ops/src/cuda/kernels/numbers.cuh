// What the kernels share: number types, and how a thread moves several at once.
//
// Every kernel is a template over the stored type S (float, double or __nv_bfloat16) and the type A
// that is computed with and that statistics and parameters have: float, of double double. Work is
// cut by shape alone and sums have a fixed order, so results are the same bits in every run.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

template <typename S> struct Accumulate { typedef S type; };
template <> struct Accumulate<__nv_bfloat16> { typedef float type; };

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename S> __device__ inline S narrow(typename Accumulate<S>::type x) { return x; }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

// V numbers that lie side by side, moved by one instruction where they fill 16 bytes.
template <typename S, int V> struct alignas(sizeof(S) * V) Pack { S at[V]; };

// The numbers of 16 bytes.
template <typename S> struct Wide { static constexpr int value = 16 / sizeof(S); };

// `NAME_f32`, `NAME_f64` and `NAME_bf16`, for the driver to find.
#define FOR_EACH_TYPE(MAKE) MAKE(f32, float, float) MAKE(f64, double, double) MAKE(bf16, __nv_bfloat16, float)
