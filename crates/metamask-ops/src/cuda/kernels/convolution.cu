// Convolutions as their definition has them, a thread for each number: for f64, of which cuDNN has
// none over NHWC images. For tests; nothing here is fast.

#include "numbers.cuh"

// Sizes of a convolution, as kernels/conv2d/mod.rs has them. Images are NHWC, weights
// [out, kernel_h, kernel_w, in].
struct ConvShape {
    int batch, in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride, padding;
};

__device__ inline int64_t input(const ConvShape &s, int image, int y, int x, int channel) {
    return (((int64_t)image * s.in_h + y) * s.in_w + x) * s.in_c + channel;
}

__device__ inline int64_t output(const ConvShape &s, int image, int y, int x, int channel) {
    return (((int64_t)image * s.out_h + y) * s.out_w + x) * s.out_c + channel;
}

__device__ inline int64_t weight(const ConvShape &s, int out, int u, int v, int in) {
    return (((int64_t)out * s.kernel_h + u) * s.kernel_w + v) * s.in_c + in;
}

// y = sum of w x over the window (+ y)
extern "C" __global__ void convolve_f64(const double *x, const double *w, double *y, ConvShape s,
                                        int accumulate, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int64_t at = i;
    const int o = (int)(i % s.out_c);
    i /= s.out_c;
    const int ox = (int)(i % s.out_w);
    i /= s.out_w;
    const int oy = (int)(i % s.out_h), image = (int)(i / s.out_h);
    double sum = accumulate ? y[at] : 0;
    for (int u = 0; u < s.kernel_h; ++u)
        for (int v = 0; v < s.kernel_w; ++v) {
            const int iy = oy * s.stride + u - s.padding, ix = ox * s.stride + v - s.padding;
            if (iy < 0 || iy >= s.in_h || ix < 0 || ix >= s.in_w) continue;
            for (int c = 0; c < s.in_c; ++c) sum += x[input(s, image, iy, ix, c)] * w[weight(s, o, u, v, c)];
        }
    y[at] = sum;
}

// dx = sum of w dy over the windows that hold the pixel (+ dx)
extern "C" __global__ void convolve_back_f64(const double *dy, const double *w, double *dx, ConvShape s,
                                             int accumulate, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int64_t at = i;
    const int c = (int)(i % s.in_c);
    i /= s.in_c;
    const int ix = (int)(i % s.in_w);
    i /= s.in_w;
    const int iy = (int)(i % s.in_h), image = (int)(i / s.in_h);
    double sum = accumulate ? dx[at] : 0;
    for (int u = 0; u < s.kernel_h; ++u)
        for (int v = 0; v < s.kernel_w; ++v) {
            const int down = iy + s.padding - u, across = ix + s.padding - v;
            if (down < 0 || across < 0 || down % s.stride || across % s.stride) continue;
            const int oy = down / s.stride, ox = across / s.stride;
            if (oy >= s.out_h || ox >= s.out_w) continue;
            for (int o = 0; o < s.out_c; ++o) sum += dy[output(s, image, oy, ox, o)] * w[weight(s, o, u, v, c)];
        }
    dx[at] = sum;
}

// dw = sum of x dy over images and windows
extern "C" __global__ void convolve_weight_f64(const double *x, const double *dy, double *dw, ConvShape s,
                                               int64_t count) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const int64_t at = i;
    const int c = (int)(i % s.in_c);
    i /= s.in_c;
    const int v = (int)(i % s.kernel_w);
    i /= s.kernel_w;
    const int u = (int)(i % s.kernel_h), o = (int)(i / s.kernel_h);
    double sum = 0;
    for (int image = 0; image < s.batch; ++image)
        for (int oy = 0; oy < s.out_h; ++oy)
            for (int ox = 0; ox < s.out_w; ++ox) {
                const int iy = oy * s.stride + u - s.padding, ix = ox * s.stride + v - s.padding;
                if (iy < 0 || iy >= s.in_h || ix < 0 || ix >= s.in_w) continue;
                sum += x[input(s, image, iy, ix, c)] * dy[output(s, image, oy, ox, o)];
            }
    dw[at] = sum;
}
