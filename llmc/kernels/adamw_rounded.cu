// AdamW with stochastic rounding to bf16 (kernels/adamw_element.h has the maths). x is a bf16 number and a rest below its last bit;
// 16 random bits are added to the 16 bits of the rest, and what carries over rounds up: with probability rest / last bit.
#include "kernels/adamw_rounded.h"

#include "device/launch.h"
#include "device/philox.h"
#include "device/vec.h"
#include "device/wide_warps.h"
#include "kernels/adamw_element.h"

// Counters of a thread, each of which serves four elements: on the CPU a vector of counters.
enum { ADAMW_BLOCK = 256, COUNTERS = HAS_WIDE_WARPS ? 16 : 2, SPAN = COUNTERS * PHILOX_WORDS };

struct Place { // of the first element among those of its bucket
    size_t first;
    uint32_t sequence;
};

__device__ __forceinline__ float round_bf16(float x, uint32_t random_bits) {
    return __uint_as_float((__float_as_uint(x) + (random_bits & 0xffffu)) & 0xffff0000u);
}

// x[SPAN] becomes numbers of type T.
template <typename T>
__device__ __forceinline__ void round_all(float (&x)[SPAN], const PhiloxWords<COUNTERS> &random, int shift) {
    if constexpr (sizeof(T) < sizeof(float)) {
        EACH_ELEMENT
        for (int k = 0; k < SPAN; k++) x[k] = round_bf16(x[k], random[k % PHILOX_WORDS][k / PHILOX_WORDS] >> shift);
    }
}

// Up to SPAN elements, the others 0.
template <typename T> __device__ __forceinline__ void load(float (&to)[SPAN], const T *from, int count) {
    if (count == SPAN) return load_vec(to, from);
    for (int k = 0; k < SPAN; k++) to[k] = k < count ? to_float(from[k]) : 0.0f;
}
template <typename T> __device__ __forceinline__ void store(T *to, const float (&from)[SPAN], int count) {
    if (count == SPAN) return store_vec(to, from);
    for (int k = 0; k < count; k++) from_float(to[k], from[k]);
}

template <typename Moment, bool MASTER>
__global__ void __launch_bounds__(ADAMW_BLOCK)
    adamw_rounded_kernel(floatX *params, float *master, Moment *m, Moment *v, const float *grads, const int *apply,
                         const float *grad_norm, const AdamWStep *step, bool decay, Place place, size_t n) {
    if (!*apply) return;
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * SPAN;
    if (i >= n) return;
    const int count = n - i < SPAN ? (int)(n - i) : (int)SPAN;
    const size_t counter = (place.first + i) / PHILOX_WORDS;
    const AdamWFactors f = adamw_factors(*step, *grad_norm, decay);
    float w[SPAN], mean[SPAN], square[SPAN], g[SPAN];
    PhiloxWords<COUNTERS> random;
    if constexpr (MASTER)
        load(w, master + i, count);
    else
        load(w, params + i, count);
    load(mean, m + i, count);
    load(square, v + i, count);
    load(g, grads + i, count);
    EACH_ELEMENT
    for (int k = 0; k < SPAN; k++) adamw_element(w[k], mean[k], square[k], g[k], f);
    if (sizeof(Moment) < sizeof(float))
        philox(random, counter, 2 * place.sequence, step->rounding_step, step->rounding_seed);
    round_all<Moment>(mean, random, 0);
    round_all<Moment>(square, random, 16);
    store(m + i, mean, count);
    store(v + i, square, count);
    if constexpr (MASTER) {
        store(master + i, w, count);
    } else {
        philox(random, counter, 2 * place.sequence + 1, step->rounding_step, step->rounding_seed);
        round_all<floatX>(w, random, 0);
    }
    store(params + i, w, count);
}

template <typename Moment, bool MASTER>
static void update(floatX *params, float *master, void *m, void *v, const float *grads, const int *apply,
                   const float *grad_norm, const AdamWStep *step, bool decay, Place place, size_t n,
                   cudaStream_t stream) {
    const size_t threads = (n + SPAN - 1) / SPAN, blocks = (threads + ADAMW_BLOCK - 1) / ADAMW_BLOCK;
    launch_pointwise((adamw_rounded_kernel<Moment, MASTER>), dim3((unsigned)blocks), dim3(ADAMW_BLOCK), stream, params,
                     master, (Moment *)m, (Moment *)v, grads, apply, grad_norm, step, decay, place, n);
}

extern "C" void adamw_rounded_update(floatX *params, float *master, void *m, void *v, bool bf16_moments,
                                     const float *grads, const int *apply, const float *grad_norm,
                                     const AdamWStep *step, bool decay, size_t first, uint32_t sequence, size_t n,
                                     cudaStream_t stream) {
    assert(are_aligned(16, params, master, m, v, grads) && first % 8 == 0 && (bf16_moments || !master));
    if (n == 0) return;
    const Place place = {first, sequence};
    const auto launcher = !bf16_moments ? update<float, false>
                          : master      ? update<__nv_bfloat16, true>
                                        : update<__nv_bfloat16, false>;
    launcher(params, master, m, v, grads, apply, grad_norm, step, decay, place, n, stream);
}
