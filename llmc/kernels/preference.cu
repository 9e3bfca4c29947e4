// Losses over pairs of answers (preference.h). A warp sums an answer's losses, one block goes over all groups, a block
// writes an answer's weights.
//
// With s(h) = -log sigmoid(h) = softplus(-h): s'(h) = -sigmoid(-h). A pair's derivative by lp_b is minus that by lp_w, and
// d lp / d (loss of a target) = -1.
#include "kernels/preference.h"
#include "device/math.h"
#include "device/reduce.h"

enum { GROUP_THREADS = 256, WEIGHT_THREADS = 128 };
enum { MAX_BLOCKS = 256 }; // a batch has room for far more answers than it holds: blocks take them in turn

__global__ void __launch_bounds__(32)
    answer_logprobs_kernel(float *logprobs, float *counts, const float *losses, const int *targets, const int *spans,
                           const int *counters) {
    for (int answer = blockIdx.x; answer < counters[0]; answer += gridDim.x) {
        float sums[2] = {}; // losses, targets
        for (int t = spans[2 * answer] + (int)threadIdx.x; t <= spans[2 * answer + 1]; t += 32) {
            sums[0] += losses[t];
            sums[1] += targets[t] >= 0 ? 1.0f : 0.0f;
        }
        warp_sum(sums);
        if (threadIdx.x != 0) continue;
        logprobs[answer] = -sums[0];
        counts[answer] = sums[1];
    }
}

// log(1 + e^x), exp of negative numbers only.
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
// 1 / (1 + e^-x), likewise.
__device__ __forceinline__ float safe_sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// The loss of a margin h with smoothed labels, and its derivative.
struct MarginLoss {
    float loss, slope;
};
__device__ __forceinline__ MarginLoss logistic(float h, float smoothing) {
    return {(1.0f - smoothing) * softplus(-h) + smoothing * softplus(h),
            smoothing * safe_sigmoid(h) - (1.0f - smoothing) * safe_sigmoid(-h)};
}

// What the losses look at: of an answer its value less the reference's, and what they divide it by.
struct Answers {
    const float *values, *reference, *counts; // the latter two NULL for REWARD

    __device__ float gain(int a) const { return reference ? values[a] - reference[a] : values[a]; }
    __device__ float length(int a) const { return counts ? fmaxf(counts[a], 1.0f) : 1.0f; }
};

// The loss of one pair without nll; slope: by the better answer's gain per unit, see unit(). Gains are kept apart until they
// have been subtracted, so that no large common part costs precision.
__device__ __forceinline__ MarginLoss pair_loss(const Answers &answers, int better, int worse,
                                                const PreferenceLoss &spec) {
    if (spec.kind == PREFERENCE_IPO) {
        const float difference =
            answers.gain(better) / answers.length(better) - answers.gain(worse) / answers.length(worse);
        const float error = difference - 0.5f / spec.beta;
        return {error * error, 2.0f * error};
    }
    const float factor = spec.kind == PREFERENCE_DPO ? spec.beta : 1.0f;
    MarginLoss result = logistic(factor * (answers.gain(better) - answers.gain(worse)), spec.label_smoothing);
    result.slope *= factor;
    return result;
}

// What one target's loss, or the score, adds to the answer's gain as the margin counts it.
__device__ __forceinline__ float unit(const Answers &answers, int a, const PreferenceLoss &spec) {
    if (spec.kind == PREFERENCE_REWARD) return 1.0f;
    return spec.kind == PREFERENCE_IPO ? -1.0f / answers.length(a) : -1.0f;
}

__device__ __forceinline__ void add_pair(float (&sums)[PREFERENCE_SUMS], float *danswers, const Answers &answers,
                                         int better, int worse, const PreferenceLoss &spec) {
    const MarginLoss pair = pair_loss(answers, better, worse, spec);
    danswers[better] += pair.slope * unit(answers, better, spec);
    danswers[worse] -= pair.slope * unit(answers, worse, spec);
    sums[PREFERENCE_LOSS] += pair.loss;
    if (spec.kind != PREFERENCE_REWARD) {
        const float share = spec.nll_summed ? 1.0f : 1.0f / answers.length(better);
        const float nll = -answers.values[better] * share;
        danswers[better] += spec.nll * share;
        sums[PREFERENCE_LOSS] += spec.nll * nll;
        sums[PREFERENCE_NLL] += nll;
    }
    const float factor = spec.kind == PREFERENCE_REWARD ? 1.0f : spec.beta;
    const float high = answers.gain(better), low = answers.gain(worse);
    sums[PREFERENCE_BETTER] += factor * high;
    sums[PREFERENCE_WORSE] += factor * low;
    sums[PREFERENCE_CORRECT] += high > low ? 1.0f : high == low ? 0.5f : 0.0f;
}

// The answers of a group are one thread's alone.
__global__ void __launch_bounds__(GROUP_THREADS)
    preference_loss_kernel(float *sums, float *danswers, Answers answers, const int *groups, const int *counters,
                           PreferenceLoss spec) {
    float own[PREFERENCE_SUMS] = {};
    for (int g = threadIdx.x; g < counters[1]; g += GROUP_THREADS) {
        const int first = groups[2 * g], end = first + groups[2 * g + 1];
        for (int a = first; a < end; a++) danswers[a] = 0.0f;
        for (int better = first; better < end; better++)
            for (int worse = better + 1; worse < end; worse++) add_pair(own, danswers, answers, better, worse, spec);
    }
    for (int i = 0; i < PREFERENCE_SUMS; i++) {
        const float total = block_sum(own[i]);
        if (threadIdx.x == 0) sums[i] += total;
    }
}

__global__ void __launch_bounds__(WEIGHT_THREADS)
    answer_weights_kernel(float *weights, const float *danswers, const int *spans, const int *counters) {
    for (int answer = blockIdx.x; answer < counters[0]; answer += gridDim.x)
        for (int t = spans[2 * answer] + (int)threadIdx.x; t <= spans[2 * answer + 1]; t += WEIGHT_THREADS)
            weights[t] = danswers[answer];
}

static dim3 answers_grid(int capacity) { return dim3((unsigned)(capacity < MAX_BLOCKS ? capacity : MAX_BLOCKS)); }

extern "C" void answer_logprobs(float *logprobs, float *counts, const float *losses, const int *targets,
                                const int *spans, const int *counters, int capacity, cudaStream_t stream) {
    launch(answer_logprobs_kernel, answers_grid(capacity), dim3(32), 0, stream, logprobs, counts, losses, targets,
           spans, counters);
}

extern "C" void preference_loss(float *sums, float *danswers, const float *values, const float *reference,
                                const float *counts, const int *groups, const int *counters, int capacity,
                                const PreferenceLoss *spec, cudaStream_t stream) {
    (void)capacity; // one block, whatever the number
    const bool scores = spec->kind == PREFERENCE_REWARD;
    const Answers answers = {values, scores ? NULL : reference, scores ? NULL : counts};
    launch(preference_loss_kernel, dim3(1), dim3(GROUP_THREADS), 0, stream, sums, danswers, answers, groups, counters,
           *spec);
}

extern "C" void answer_weights(float *weights, const float *danswers, const int *spans, const int *counters, int n,
                               int capacity, cudaStream_t stream) {
    cuda_check(cudaMemsetAsync(weights, 0, (size_t)n * sizeof *weights, stream));
    launch_pointwise(answer_weights_kernel, answers_grid(capacity), dim3(WEIGHT_THREADS), stream, weights, danswers,
                     spans, counters);
}
