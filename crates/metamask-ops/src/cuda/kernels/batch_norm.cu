// Batch normalisation over the rows of an [M, C] matrix. The formulas are those of
// kernels/batch_norm/mod.rs: two column sums, then one affine map per channel.
//
// A block has 32 threads along the channels and 8 along the rows, and works on a fixed strip of
// rows. `partial` holds what each strip found.

#include "numbers.cuh"

constexpr int LANES = 32;
constexpr int STRIPES = 8;

// Mean and sum of squared deviations of each channel in each strip, by Welford's recurrence in a
// thread and Chan's formula across threads: partial[strip][0] means, partial[strip][1] squares.
template <typename S, typename A>
__device__ void moments(const S *x, A *partial, int64_t rows, int channels, int strip_rows) {
    __shared__ A means[STRIPES][LANES];
    __shared__ A squares[STRIPES][LANES];
    __shared__ A counts[STRIPES][LANES];
    const int channel = blockIdx.x * LANES + threadIdx.x;
    const int64_t first = (int64_t)blockIdx.y * strip_rows;
    const int64_t end = min(first + strip_rows, rows);
    A mean = 0, square = 0, count = 0;
    if (channel < channels) {
        for (int64_t row = first + threadIdx.y; row < end; row += STRIPES) {
            const A value = widen(x[row * channels + channel]);
            count += 1;
            const A delta = value - mean;
            mean += delta / count;
            square += delta * (value - mean);
        }
    }
    means[threadIdx.y][threadIdx.x] = mean;
    squares[threadIdx.y][threadIdx.x] = square;
    counts[threadIdx.y][threadIdx.x] = count;
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
        for (int stripe = 1; stripe < STRIPES; ++stripe) {
            const A other = counts[stripe][threadIdx.x];
            if (other == 0) continue;
            const A all = count + other;
            const A delta = means[stripe][threadIdx.x] - mean;
            mean += delta * (other / all);
            square += squares[stripe][threadIdx.x] + delta * delta * (count * other / all);
            count = all;
        }
        A *strip = partial + (int64_t)blockIdx.y * 2 * channels;
        strip[channel] = mean;
        strip[channels + channel] = square;
    }
}

// Joins the strips in order, in double: mean, biased variance and 1/sqrt(variance + epsilon).
template <typename A>
__device__ void join_moments(const A *partial, int strips, int64_t rows, int channels, int strip_rows,
                             double epsilon, A *mean_out, A *variance_out, A *inv_std) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    double mean = 0, square = 0, count = 0;
    for (int strip = 0; strip < strips; ++strip) {
        const int64_t left = rows - (int64_t)strip * strip_rows;
        const double other = (double)min((int64_t)strip_rows, left);
        const A *found = partial + (int64_t)strip * 2 * channels;
        const double all = count + other;
        const double delta = (double)found[channel] - mean;
        mean += delta * (other / all);
        square += (double)found[channels + channel] + delta * delta * (count * other / all);
        count = all;
    }
    const double variance = square / count;
    mean_out[channel] = (A)mean;
    variance_out[channel] = (A)variance;
    inv_std[channel] = (A)(1.0 / sqrt(variance + epsilon));
}

// 1/sqrt(variance + epsilon) where the variance is given.
template <typename A>
__device__ void invert(const A *variance, A *inv_std, int channels, double epsilon) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel < channels) inv_std[channel] = (A)(1.0 / sqrt((double)variance[channel] + epsilon));
}

// What a ReLU lets through: everything (0), where its output is above 0 (1), or where its input
// gamma s (x - mean) + beta is (2). The input is computed just as `affine` computes the output.
template <typename S, typename A>
__device__ inline bool is_open(int gate, int64_t at, A x, const S *y, A scale, A shift) {
    if (gate == 1) return widen(y[at]) > 0;
    if (gate == 2) return x * scale + shift > 0;
    return true;
}

// Of each channel in each strip: the sum of g, and of g (x - mean), g being u where ReLU is open.
template <typename S, typename A>
__device__ void column_sums(const S *u, const S *x, const S *y, const A *mean, const A *inv_std,
                            const A *gamma, const A *beta, int gate, A *partial, int64_t rows,
                            int channels, int strip_rows) {
    __shared__ A sums[STRIPES][LANES];
    __shared__ A products[STRIPES][LANES];
    const int channel = blockIdx.x * LANES + threadIdx.x;
    const int64_t first = (int64_t)blockIdx.y * strip_rows;
    const int64_t end = min(first + strip_rows, rows);
    A sum = 0, product = 0;
    if (channel < channels) {
        const A mu = mean[channel];
        const A scale = gate == 2 ? gamma[channel] * inv_std[channel] : (A)0;
        const A shift = gate == 2 ? beta[channel] - mu * scale : (A)0;
        for (int64_t row = first + threadIdx.y; row < end; row += STRIPES) {
            const int64_t at = row * channels + channel;
            const A value = widen(x[at]);
            if (!is_open(gate, at, value, y, scale, shift)) continue;
            const A g = widen(u[at]);
            sum += g;
            product += g * (value - mu);
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    products[threadIdx.y][threadIdx.x] = product;
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
        for (int stripe = 1; stripe < STRIPES; ++stripe) {
            sum += sums[stripe][threadIdx.x];
            product += products[stripe][threadIdx.x];
        }
        A *strip = partial + (int64_t)blockIdx.y * 2 * channels;
        strip[channel] = sum;
        strip[channels + channel] = product;
    }
}

// Joins the strips in order, in double, and says what the affine map of gradient or tangent is:
//   map = [a | b | c], out = a u + b (x - mean) + c
// Gradient (gamma_dot is null): a = gamma s, b = -a s^2 product / M, c = -a sum / M; dgamma, dbeta.
// Tangent: b and c move by gamma_dot s and beta_dot; a null beta_dot is zero.
template <typename A>
__device__ void coefficients(const A *partial, int strips, int64_t rows, int channels,
                             const A *inv_std, const A *gamma, const A *gamma_dot, const A *beta_dot,
                             int through_statistics, A *map, A *dgamma, A *dbeta) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    double sum = 0, product = 0;
    for (int strip = 0; strip < strips; ++strip) {
        const A *found = partial + (int64_t)strip * 2 * channels;
        sum += (double)found[channel];
        product += (double)found[channels + channel];
    }
    const double s = inv_std[channel];
    const double a = (double)gamma[channel] * s;
    double b = 0, c = 0;
    if (through_statistics) {
        b = -a * s * s * product / (double)rows;
        c = -a * sum / (double)rows;
    }
    if (gamma_dot) b += (double)gamma_dot[channel] * s;
    if (beta_dot) c += (double)beta_dot[channel];
    map[channel] = (A)a;
    map[channels + channel] = (A)b;
    map[2 * channels + channel] = (A)c;
    if (dgamma) {
        dgamma[channel] = (A)(product * s);
        dbeta[channel] = (A)sum;
    }
}

// y = relu?(gamma s x + (beta - mean gamma s) (+ residual)), V channels a thread.
template <typename S, typename A, int V>
__device__ void normalise(const S *x, const A *mean, const A *inv_std, const A *gamma, const A *beta,
                          const S *residual, int relu, S *y, int64_t packs, int channels) {
    const int64_t pack = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pack >= packs) return;
    const int first = (int)(pack * V % channels);
    Pack<S, V> in = ((const Pack<S, V> *)x)[pack], add, out;
    if (residual) add = ((const Pack<S, V> *)residual)[pack];
    for (int i = 0; i < V; ++i) {
        const A scale = gamma[first + i] * inv_std[first + i];
        const A shift = beta[first + i] - mean[first + i] * scale;
        A value = widen(in.at[i]) * scale + shift;
        if (residual) value += widen(add.at[i]);
        if (relu && !(value > 0)) value = value != value ? value : (A)0;
        out.at[i] = narrow<S>(value);
    }
    ((Pack<S, V> *)y)[pack] = out;
}

// out = (a u + b (x - mean) + c (+ residual)) where ReLU was open, else 0; and where `open` is
// given, what came through the ReLU of u. `u` may be `out` or `open`.
template <typename S, typename A, int V>
__device__ void affine(const S *u, const S *x, const S *y, const A *map, const A *mean,
                       const A *inv_std, const A *gamma, const A *beta, int gate, int gate_result,
                       const S *residual, S *out, S *open, int64_t packs, int channels) {
    const int64_t pack = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pack >= packs) return;
    const int first = (int)(pack * V % channels);
    Pack<S, V> xs, us, add, result, passed;
    xs = ((const Pack<S, V> *)x)[pack];
    if (u) us = ((const Pack<S, V> *)u)[pack];
    if (residual) add = ((const Pack<S, V> *)residual)[pack];
    for (int i = 0; i < V; ++i) {
        const int channel = first + i;
        const A value = widen(xs.at[i]);
        const A scale = gate == 2 ? gamma[channel] * inv_std[channel] : (A)0;
        const A shift = gate == 2 ? beta[channel] - mean[channel] * scale : (A)0;
        const bool is_through = is_open(gate, pack * V + i, value, y, scale, shift);
        // A gradient meets the ReLU before the normalisation, a tangent behind it.
        A g = u ? widen(us.at[i]) : (A)0;
        if (!gate_result && !is_through) g = 0;
        A sum = map[channel] * g + map[channels + channel] * (value - mean[channel]) + map[2 * channels + channel];
        if (residual) sum += widen(add.at[i]);
        if (gate_result && !is_through) sum = 0;
        result.at[i] = narrow<S>(sum);
        if (open) passed.at[i] = narrow<S>(g);
    }
    ((Pack<S, V> *)out)[pack] = result;
    if (open) ((Pack<S, V> *)open)[pack] = passed;
}

// running = (1 - momentum) running + momentum correction batch
template <typename A>
__device__ void move_running(const A *running, const A *batch, A *moved, int count, double momentum,
                             double correction) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) moved[i] = (A)((1.0 - momentum) * (double)running[i] + momentum * correction * (double)batch[i]);
}

#define MAKE(NAME, S, A)                                                                            \
    extern "C" __global__ void moments_##NAME(const S *x, A *partial, int64_t rows, int channels,   \
                                              int strip_rows) {                                     \
        moments<S, A>(x, partial, rows, channels, strip_rows);                                      \
    }                                                                                               \
    extern "C" __global__ void column_sums_##NAME(                                                  \
        const S *u, const S *x, const S *y, const A *mean, const A *inv_std, const A *gamma,        \
        const A *beta, int gate, A *partial, int64_t rows, int channels, int strip_rows) {          \
        column_sums<S, A>(u, x, y, mean, inv_std, gamma, beta, gate, partial, rows, channels,       \
                          strip_rows);                                                              \
    }                                                                                               \
    extern "C" __global__ void normalise_##NAME(                                                    \
        const S *x, const A *mean, const A *inv_std, const A *gamma, const A *beta,                 \
        const S *residual, int relu, S *y, int64_t packs, int channels, int wide) {                 \
        if (wide)                                                                                   \
            normalise<S, A, Wide<S>::value>(x, mean, inv_std, gamma, beta, residual, relu, y,       \
                                            packs, channels);                                       \
        else                                                                                        \
            normalise<S, A, 1>(x, mean, inv_std, gamma, beta, residual, relu, y, packs, channels);  \
    }                                                                                               \
    extern "C" __global__ void affine_##NAME(                                                       \
        const S *u, const S *x, const S *y, const A *map, const A *mean, const A *inv_std,          \
        const A *gamma, const A *beta, int gate, int gate_result, const S *residual, S *out,        \
        S *open, int64_t packs, int channels, int wide) {                                           \
        if (wide)                                                                                   \
            affine<S, A, Wide<S>::value>(u, x, y, map, mean, inv_std, gamma, beta, gate,            \
                                         gate_result, residual, out, open, packs, channels);        \
        else                                                                                        \
            affine<S, A, 1>(u, x, y, map, mean, inv_std, gamma, beta, gate, gate_result, residual,  \
                            out, open, packs, channels);                                            \
    }
FOR_EACH_TYPE(MAKE)
#undef MAKE

#define MAKE(NAME, A)                                                                               \
    extern "C" __global__ void join_moments_##NAME(                                                 \
        const A *partial, int strips, int64_t rows, int channels, int strip_rows, double epsilon,   \
        A *mean, A *variance, A *inv_std) {                                                         \
        join_moments<A>(partial, strips, rows, channels, strip_rows, epsilon, mean, variance,       \
                        inv_std);                                                                   \
    }                                                                                               \
    extern "C" __global__ void invert_##NAME(const A *variance, A *inv_std, int channels,           \
                                             double epsilon) {                                      \
        invert<A>(variance, inv_std, channels, epsilon);                                            \
    }                                                                                               \
    extern "C" __global__ void coefficients_##NAME(                                                 \
        const A *partial, int strips, int64_t rows, int channels, const A *inv_std, const A *gamma, \
        const A *gamma_dot, const A *beta_dot, int through_statistics, A *map, A *dgamma,           \
        A *dbeta) {                                                                                 \
        coefficients<A>(partial, strips, rows, channels, inv_std, gamma, gamma_dot, beta_dot,       \
                        through_statistics, map, dgamma, dbeta);                                    \
    }                                                                                               \
    extern "C" __global__ void move_running_##NAME(const A *running, const A *batch, A *moved,      \
                                                   int count, double momentum, double correction) { \
        move_running<A>(running, batch, moved, count, momentum, correction);                        \
    }
MAKE(f32, float)
MAKE(f64, double)
#undef MAKE
