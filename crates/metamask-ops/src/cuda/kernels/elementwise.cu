// ReLU, addition, and numbers as the layers want to read them. V numbers a thread.

#include "numbers.cuh"

template <typename S, int V, typename F>
__device__ void map_packs(const S *a, const S *b, S *out, int64_t packs, F f) {
    const int64_t pack = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pack >= packs) return;
    Pack<S, V> left = ((const Pack<S, V> *)a)[pack], right = ((const Pack<S, V> *)b)[pack], result;
    for (int i = 0; i < V; ++i) result.at[i] = narrow<S>(f(widen(left.at[i]), widen(right.at[i])));
    ((Pack<S, V> *)out)[pack] = result;
}

// max(x, 0); a NaN stays.
struct Relu {
    template <typename A> __device__ A operator()(A x, A) const { return x > 0 || x != x ? x : (A)0; }
};

// dy where y is above 0.
struct ReluGate {
    template <typename A> __device__ A operator()(A y, A dy) const { return y > 0 ? dy : (A)0; }
};

struct Sum {
    template <typename A> __device__ A operator()(A a, A b) const { return a + b; }
};

// [count] of one type to another.
template <typename From, typename To, typename A>
__device__ void convert(const From *x, To *y, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = narrow<To>((typename Accumulate<To>::type)widen(x[i]));
}

// [rows, columns] of one type to [columns, rows] of another, by tiles of 32 x 32: a convolution's
// weights from [kh, kw, in, out] to cuDNN's [out, kh, kw, in], and their gradient back.
constexpr int TILE = 32;

template <typename From, typename To>
__device__ void transpose(const From *x, To *y, int rows, int columns) {
    __shared__ From tile[TILE][TILE + 1];
    const int column = blockIdx.x * TILE + threadIdx.x;
    for (int i = threadIdx.y; i < TILE; i += blockDim.y) {
        const int row = blockIdx.y * TILE + i;
        if (row < rows && column < columns) tile[i][threadIdx.x] = x[(int64_t)row * columns + column];
    }
    __syncthreads();
    const int row = blockIdx.y * TILE + threadIdx.x;
    for (int i = threadIdx.y; i < TILE; i += blockDim.y) {
        const int to = blockIdx.x * TILE + i;
        if (row < rows && to < columns)
            y[(int64_t)to * rows + row] = narrow<To>((typename Accumulate<To>::type)widen(tile[threadIdx.x][i]));
    }
}

// y[row, channel] += bias[channel]
template <typename S, typename A>
__device__ void add_bias(const A *bias, S *y, int64_t count, int channels) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = narrow<S>(widen(y[i]) + bias[i % channels]);
}

// The sum of each column of [rows, channels], rows in order in double: few rows, a linear layer's.
template <typename S, typename A>
__device__ void sum_rows(const S *x, A *sums, int rows, int channels) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    double sum = 0;
    for (int row = 0; row < rows; ++row) sum += (double)widen(x[(int64_t)row * channels + channel]);
    sums[channel] = (A)sum;
}

#define BINARY(KERNEL, FUNCTION, NAME, S)                                                           \
    extern "C" __global__ void KERNEL##_##NAME(const S *a, const S *b, S *out, int64_t packs,       \
                                               int wide) {                                          \
        if (wide)                                                                                   \
            map_packs<S, Wide<S>::value>(a, b, out, packs, FUNCTION());                             \
        else                                                                                        \
            map_packs<S, 1>(a, b, out, packs, FUNCTION());                                          \
    }
#define MAKE(NAME, S, A)                                                                            \
    BINARY(relu, Relu, NAME, S)                                                                     \
    BINARY(relu_gate, ReluGate, NAME, S)                                                            \
    BINARY(add, Sum, NAME, S)                                                                       \
    extern "C" __global__ void enter_##NAME(const A *x, S *y, int64_t count) {                      \
        convert<A, S, A>(x, y, count);                                                              \
    }                                                                                               \
    extern "C" __global__ void leave_##NAME(const S *x, A *y, int64_t count) {                      \
        convert<S, A, A>(x, y, count);                                                              \
    }                                                                                               \
    extern "C" __global__ void transpose_in_##NAME(const A *x, S *y, int rows, int columns) {       \
        transpose<A, S>(x, y, rows, columns);                                                       \
    }                                                                                               \
    extern "C" __global__ void transpose_out_##NAME(const S *x, A *y, int rows, int columns) {      \
        transpose<S, A>(x, y, rows, columns);                                                       \
    }                                                                                               \
    extern "C" __global__ void add_bias_##NAME(const A *bias, S *y, int64_t count, int channels) {  \
        add_bias<S, A>(bias, y, count, channels);                                                   \
    }                                                                                               \
    extern "C" __global__ void sum_rows_##NAME(const S *x, A *sums, int rows, int channels) {       \
        sum_rows<S, A>(x, sums, rows, channels);                                                    \
    }
FOR_EACH_TYPE(MAKE)
