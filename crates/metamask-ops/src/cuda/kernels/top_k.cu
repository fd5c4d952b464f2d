// The k largest numbers of every row, and their columns; a block of threads a row.
//
// A number and its column are one integer whose order is theirs, and no two are equal: what is
// selected, and in which order, does not depend on how threads share the work.

#include "numbers.cuh"

// Larger for a larger number and, of equal ones, for a lower column. A zero is a zero of either
// sign; what stands for nothing, 0, is below all.
__device__ inline uint64_t rank_of(float value, uint32_t column) {
    const uint32_t bits = __float_as_uint(value == 0 ? 0.f : value);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)ordered << 32 | (UINT32_MAX - column);
}

__device__ inline uint32_t column_of(uint64_t rank) { return UINT32_MAX - (uint32_t)rank; }

// Puts a pair in order: the larger one first if `descends`.
__device__ inline void order(uint64_t *a, uint64_t *b, bool descends) {
    const uint64_t x = *a, y = *b;
    if ((x < y) == descends) *a = y, *b = x;
}

// A stage of Batcher's bitonic sort: of K ranks every `run` that rise and then fall, or fall and
// then rise, are put in order, the first run falling or not, the others in turn.
template <int K> __device__ void stage(uint64_t *ranks, int run, bool falls) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
        __syncthreads();
        for (int pair = threadIdx.x; pair < K / 2; pair += blockDim.x) {
            const int first = pair / apart * 2 * apart + pair % apart;
            order(ranks + first, ranks + first + apart, (first / run % 2 == 1) != falls);
        }
    }
}

// Row by row, K columns at a time: the best so far fall, the next ones rise, and of the larger one
// of every two nothing is lost that belongs to the K largest of both.
template <int K>
__device__ void top_k(const float *rows, int n, int k, float *values, uint32_t *columns) {
    __shared__ uint64_t best[K], next[K];
    const float *row = rows + (int64_t)blockIdx.x * n;
    for (int i = threadIdx.x; i < K; i += blockDim.x) best[i] = 0;
    for (int first = 0; first < n; first += K) {
        __syncthreads();
        for (int i = threadIdx.x; i < K; i += blockDim.x)
            next[i] = i < n - first ? rank_of(row[first + i], first + i) : 0;
        for (int run = 2; run <= K; run *= 2) stage<K>(next, run, false);
        __syncthreads();
        for (int i = threadIdx.x; i < K; i += blockDim.x) best[i] = max(best[i], next[i]);
        stage<K>(best, K, true);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        const uint32_t column = column_of(best[i]);
        const int64_t to = (int64_t)blockIdx.x * k + i;
        values[to] = row[column];
        columns[to] = column;
    }
}

#define MAKE(K)                                                                             \
    extern "C" __global__ void top_k_##K(const float *rows, int n, int k, float *values,    \
                                         uint32_t *columns) {                               \
        top_k<K>(rows, n, k, values, columns);                                              \
    }
MAKE(32)
MAKE(256)
MAKE(2048)
