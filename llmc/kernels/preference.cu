// Losses over pairs of answers (preference.h). A warp sums an answer's losses, one block walks over all groups, and a block
// writes an answer's weights.
//
// With s(h) = -log sigmoid(h) = softplus(-h): s'(h) = -sigmoid(-h). A pair's derivative by lp_c is minus that by lp_r, and
// d lp / d (loss of a target) = -1.
#include "kernels/preference.h"

#include "device/math.h"
#include "device/reduce.h"

enum { ANSWER_THREADS = 32, GROUP_THREADS = 256, WEIGHT_THREADS = 128 };
enum { MAX_BLOCKS = 256 }; // a batch has room for far more answers than it holds: blocks take them in turn

template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    answer_logprobs_kernel(float *logprobs, float *counts, const float *losses, const int *targets, const int *spans,
                           const int *counters) {
    for (int answer = blockIdx.x; answer < counters[0]; answer += gridDim.x) {
        float sums[2] = {}; // losses, targets
        for (int t = spans[2 * answer] + (int)threadIdx.x; t <= spans[2 * answer + 1]; t += THREADS) {
            sums[0] += losses[t];
            sums[1] += targets[t] >= 0 ? 1.0f : 0.0f;
        }
        group_sum<THREADS>(sums);
        if (threadIdx.x != 0) continue;
        logprobs[answer] = -sums[0];
        counts[answer] = sums[1];
    }
}

// log(1 + e^x), exp of negative numbers only.
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + precise_log1p(precise_exp(-fabsf(x))); }
// 1 / (1 + e^-x), likewise.
__device__ __forceinline__ float safe_sigmoid(float x) {
    const float e = precise_exp(-fabsf(x));
    return precise_divide(x < 0.0f ? e : 1.0f, 1.0f + e);
}

// The loss of a margin h with smoothed labels, and its derivative.
struct MarginLoss {
    float loss, slope;
};
__device__ __forceinline__ MarginLoss logistic(float h, float smoothing) {
    return {(1.0f - smoothing) * softplus(-h) + smoothing * softplus(h),
            smoothing * safe_sigmoid(h) - (1.0f - smoothing) * safe_sigmoid(-h)};
}

// What a loss needs of an answer: how much likelier the model makes it than the reference does, and its length.
struct Answers {
    const float *seq_logprobs, *ref_logprobs, *counts; // for REWARD: scores, NULL, NULL

    __device__ float gain(int a) const { return ref_logprobs ? seq_logprobs[a] - ref_logprobs[a] : seq_logprobs[a]; }
    __device__ float length(int a) const { return counts ? fmaxf(counts[a], 1.0f) : 1.0f; }
};

// The loss of one pair without nll; slope: its derivative by the margin in unit()s. Each answer's gain is a difference of its
// own, taken before the two answers are compared, so that no large common part costs precision.
__device__ __forceinline__ MarginLoss pair_loss(const Answers &answers, int chosen, int rejected,
                                                const PreferenceLoss &spec) {
    if (spec.kind == PREFERENCE_IPO) {
        const float difference = precise_divide(answers.gain(chosen), answers.length(chosen)) -
                                 precise_divide(answers.gain(rejected), answers.length(rejected));
        const float error = difference - precise_divide(0.5f, spec.beta);
        return {error * error, 2.0f * error};
    }
    const float factor = spec.kind == PREFERENCE_DPO ? spec.beta : 1.0f;
    MarginLoss result = logistic(factor * (answers.gain(chosen) - answers.gain(rejected)), spec.label_smoothing);
    result.slope *= factor;
    return result;
}

// What one target's loss, or the score, adds to the answer's gain as the margin counts it.
__device__ __forceinline__ float unit(const Answers &answers, int a, const PreferenceLoss &spec) {
    if (spec.kind == PREFERENCE_REWARD) return 1.0f;
    return spec.kind == PREFERENCE_IPO ? precise_divide(-1.0f, answers.length(a)) : -1.0f;
}

__device__ __forceinline__ void add_pair(float (&sums)[PREFERENCE_SUMS], float *dseq, const Answers &answers,
                                         int chosen, int rejected, const PreferenceLoss &spec) {
    const MarginLoss pair = pair_loss(answers, chosen, rejected, spec);
    dseq[chosen] += pair.slope * unit(answers, chosen, spec);
    dseq[rejected] -= pair.slope * unit(answers, rejected, spec);
    sums[PREFERENCE_LOSS] += pair.loss;
    if (spec.kind != PREFERENCE_REWARD) {
        const float share = spec.nll_summed ? 1.0f : precise_divide(1.0f, answers.length(chosen));
        const float nll = -answers.seq_logprobs[chosen] * share;
        dseq[chosen] += spec.nll * share;
        sums[PREFERENCE_LOSS] += spec.nll * nll;
        sums[PREFERENCE_NLL] += nll;
    }
    const float factor = spec.kind == PREFERENCE_REWARD ? 1.0f : spec.beta;
    const float high = answers.gain(chosen), low = answers.gain(rejected);
    sums[PREFERENCE_CHOSEN] += factor * high;
    sums[PREFERENCE_REJECTED] += factor * low;
    sums[PREFERENCE_CORRECT] += high > low ? 1.0f : high == low ? 0.5f : 0.0f;
}

// The answers of a group are one thread's alone.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    preference_loss_kernel(float *sums, float *dseq, Answers answers, const int *groups, const int *counters,
                           PreferenceLoss spec) {
    float own[PREFERENCE_SUMS] = {};
    for (int g = threadIdx.x; g < counters[1]; g += THREADS) {
        const int first = groups[2 * g], end = first + groups[2 * g + 1];
        for (int a = first; a < end; a++) dseq[a] = 0.0f;
        for (int chosen = first; chosen < end; chosen++)
            for (int rejected = chosen + 1; rejected < end; rejected++)
                add_pair(own, dseq, answers, chosen, rejected, spec);
    }
    for (int i = 0; i < PREFERENCE_SUMS; i++) {
        const float total = block_sum<THREADS>(own[i]);
        if (threadIdx.x == 0) sums[i] += total;
    }
}

__global__ void __launch_bounds__(WEIGHT_THREADS)
    answer_weights_kernel(float *weights, const float *dseq, const int *spans, const int *counters) {
    for (int answer = blockIdx.x; answer < counters[0]; answer += gridDim.x)
        for (int t = spans[2 * answer] + (int)threadIdx.x; t <= spans[2 * answer + 1]; t += WEIGHT_THREADS)
            weights[t] = dseq[answer];
}

static dim3 answers_grid(int capacity) { return dim3((unsigned)(capacity < MAX_BLOCKS ? capacity : MAX_BLOCKS)); }

extern "C" void answer_logprobs(float *logprobs, float *counts, const float *losses, const int *targets,
                                const int *spans, const int *counters, int capacity, cudaStream_t stream) {
    launch_block(answer_logprobs_kernel, ANSWER_THREADS, answers_grid(capacity), stream, logprobs, counts, losses,
                 targets, spans, counters);
}

extern "C" void preference_loss(float *sums, float *dseq, const float *seq_logprobs, const float *ref_logprobs,
                                const float *counts, const int *groups, const int *counters, int capacity,
                                const PreferenceLoss *spec, cudaStream_t stream) {
    (void)capacity; // one block, whatever the number
    const bool scores = spec->kind == PREFERENCE_REWARD;
    const Answers answers = {seq_logprobs, scores ? NULL : ref_logprobs, scores ? NULL : counts};
    launch_block(preference_loss_kernel, GROUP_THREADS, dim3(1), stream, sums, dseq, answers, groups, counters, *spec);
}

extern "C" void answer_weights(float *weights, const float *dseq, const int *spans, const int *counters, int n,
                               int capacity, cudaStream_t stream) {
    cuda_check(cudaMemsetAsync(weights, 0, (size_t)n * sizeof *weights, stream));
    launch_pointwise(answer_weights_kernel, answers_grid(capacity), dim3(WEIGHT_THREADS), stream, weights, dseq, spans,
                     counters);
}
