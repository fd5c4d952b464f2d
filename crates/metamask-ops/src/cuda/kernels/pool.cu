// Max, average and global average pooling over NHWC images; a thread for each number that is
// written, which gathers what it is made of: no atomics, the same bits in every run.

#include "numbers.cuh"

// Sizes of a pooling layer, as kernels/pool.rs has them.
struct PoolShape {
    int batch, in_h, in_w, out_h, out_w, channels, kernel, stride, padding;
};

// Where an index into [batch, h, w, channels] lies.
struct Place {
    int image, y, x, channel;
    __device__ Place(int64_t index, int h, int w, int channels) {
        channel = (int)(index % channels);
        index /= channels;
        x = (int)(index % w);
        index /= w;
        y = (int)(index % h);
        image = (int)(index / h);
    }
};

// The input positions of window `out` along an axis of length `size`.
__device__ inline void window(const PoolShape &s, int out, int size, int *first, int *end) {
    *first = max(out * s.stride - s.padding, 0);
    *end = min(out * s.stride - s.padding + s.kernel, size);
}

// The windows that hold input position `in`, of `count` along the axis.
__device__ inline void windows_of(const PoolShape &s, int in, int count, int *first, int *end) {
    const int behind = in + s.padding - s.kernel;
    *first = behind < 0 ? 0 : behind / s.stride + 1;
    *end = min((in + s.padding) / s.stride + 1, count);
}

// The maximum, and its place `iy in_w + ix`; among equals the first in row order, and a NaN wins.
template <typename S>
__device__ void max_pool(const S *x, S *y, uint32_t *places, PoolShape s, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Place at(i, s.out_h, s.out_w, s.channels);
    const S *image = x + (int64_t)at.image * s.in_h * s.in_w * s.channels;
    int top, bottom, left, right;
    window(s, at.y, s.in_h, &top, &bottom);
    window(s, at.x, s.in_w, &left, &right);
    uint32_t place = UINT32_MAX;
    S best = S();
    for (int iy = top; iy < bottom; ++iy)
        for (int ix = left; ix < right; ++ix) {
            const int pixel = iy * s.in_w + ix;
            const S stored = image[(int64_t)pixel * s.channels + at.channel];
            const auto value = widen(stored);
            if (place == UINT32_MAX || value > widen(best) || value != value) {
                best = stored;
                place = (uint32_t)pixel;
            }
        }
    y[i] = best;
    places[i] = place;
}

// The sum of dy over the windows whose maximum is here.
template <typename S, typename A>
__device__ void max_pool_backward(const S *dy, const uint32_t *places, S *dx, PoolShape s, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Place at(i, s.in_h, s.in_w, s.channels);
    const uint32_t here = (uint32_t)(at.y * s.in_w + at.x);
    int top, bottom, left, right;
    windows_of(s, at.y, s.out_h, &top, &bottom);
    windows_of(s, at.x, s.out_w, &left, &right);
    A sum = 0;
    for (int oy = top; oy < bottom; ++oy)
        for (int ox = left; ox < right; ++ox) {
            const int64_t out = (((int64_t)at.image * s.out_h + oy) * s.out_w + ox) * s.channels + at.channel;
            if (places[out] == here) sum += widen(dy[out]);
        }
    dx[i] = narrow<S>(sum);
}

// The direction where the maximum was.
template <typename S>
__device__ void max_pool_tangent(const S *x_dot, const uint32_t *places, S *y_dot, PoolShape s, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Place at(i, s.out_h, s.out_w, s.channels);
    const S *image = x_dot + (int64_t)at.image * s.in_h * s.in_w * s.channels;
    y_dot[i] = image[(int64_t)places[i] * s.channels + at.channel];
}

// The window's sum over kernel^2: padding counts as zeros.
template <typename S, typename A>
__device__ void avg_pool(const S *x, S *y, PoolShape s, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Place at(i, s.out_h, s.out_w, s.channels);
    const S *image = x + (int64_t)at.image * s.in_h * s.in_w * s.channels;
    int top, bottom, left, right;
    window(s, at.y, s.in_h, &top, &bottom);
    window(s, at.x, s.in_w, &left, &right);
    A sum = 0;
    for (int iy = top; iy < bottom; ++iy)
        for (int ix = left; ix < right; ++ix)
            sum += widen(image[((int64_t)iy * s.in_w + ix) * s.channels + at.channel]);
    y[i] = narrow<S>(sum / (A)(s.kernel * s.kernel));
}

template <typename S, typename A>
__device__ void avg_pool_backward(const S *dy, S *dx, PoolShape s, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Place at(i, s.in_h, s.in_w, s.channels);
    int top, bottom, left, right;
    windows_of(s, at.y, s.out_h, &top, &bottom);
    windows_of(s, at.x, s.out_w, &left, &right);
    A sum = 0;
    for (int oy = top; oy < bottom; ++oy)
        for (int ox = left; ox < right; ++ox)
            sum += widen(dy[(((int64_t)at.image * s.out_h + oy) * s.out_w + ox) * s.channels + at.channel]);
    dx[i] = narrow<S>(sum / (A)(s.kernel * s.kernel));
}

// [batch, pixels, channels] to [batch, channels].
template <typename S, typename A>
__device__ void global_avg_pool(const S *x, S *y, int pixels, int channels, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const S *image = x + i / channels * pixels * channels + i % channels;
    A sum = 0;
    for (int pixel = 0; pixel < pixels; ++pixel) sum += widen(image[(int64_t)pixel * channels]);
    y[i] = narrow<S>(sum / (A)pixels);
}

template <typename S, typename A>
__device__ void global_avg_pool_backward(const S *dy, S *dx, int pixels, int channels, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int64_t image = i / channels / pixels;
    dx[i] = narrow<S>(widen(dy[image * channels + i % channels]) / (A)pixels);
}

#define MAKE(NAME, S, A)                                                                            \
    extern "C" __global__ void max_pool_##NAME(const S *x, S *y, uint32_t *places, PoolShape s,     \
                                               int64_t count) {                                     \
        max_pool<S>(x, y, places, s, count);                                                        \
    }                                                                                               \
    extern "C" __global__ void max_pool_backward_##NAME(const S *dy, const uint32_t *places, S *dx, \
                                                        PoolShape s, int64_t count) {               \
        max_pool_backward<S, A>(dy, places, dx, s, count);                                          \
    }                                                                                               \
    extern "C" __global__ void max_pool_tangent_##NAME(const S *x_dot, const uint32_t *places,      \
                                                       S *y_dot, PoolShape s, int64_t count) {      \
        max_pool_tangent<S>(x_dot, places, y_dot, s, count);                                        \
    }                                                                                               \
    extern "C" __global__ void avg_pool_##NAME(const S *x, S *y, PoolShape s, int64_t count) {      \
        avg_pool<S, A>(x, y, s, count);                                                             \
    }                                                                                               \
    extern "C" __global__ void avg_pool_backward_##NAME(const S *dy, S *dx, PoolShape s,            \
                                                        int64_t count) {                            \
        avg_pool_backward<S, A>(dy, dx, s, count);                                                  \
    }                                                                                               \
    extern "C" __global__ void global_avg_pool_##NAME(const S *x, S *y, int pixels, int channels,   \
                                                      int64_t count) {                              \
        global_avg_pool<S, A>(x, y, pixels, channels, count);                                       \
    }                                                                                               \
    extern "C" __global__ void global_avg_pool_backward_##NAME(                                     \
        const S *dy, S *dx, int pixels, int channels, int64_t count) {                              \
        global_avg_pool_backward<S, A>(dy, dx, pixels, channels, count);                            \
    }
FOR_EACH_TYPE(MAKE)
