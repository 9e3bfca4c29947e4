// Losses over pairs of answers to one prompt, and what they need of the classifier's losses: the log-probabilities of
// answers go in, weights of the targets' losses come out (kernels/classifier.h), so that one backward pass does the whole
// step.
//
// spans [answers, 2]: an answer's first and last position among the n = B*T of the batch. groups [groups, 2]: the first of
// the answers to one prompt and how many there are (2 or 3), the most preferred first; no answer is in two groups.
// counters [2]: how many answers and how many groups the batch has, at most `capacity`. All of it is in device memory, so
// that no step waits for the host. Sums have a fixed order; there are no atomics.
#ifndef LLMC_KERNELS_PREFERENCE_H
#define LLMC_KERNELS_PREFERENCE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// Of a pair of a chosen and a rejected answer, with s(h) = -log sigmoid(h) and ls = label_smoothing:
//   DPO     (1 - ls) s(h) + ls s(-h),  h = beta ((lp_c - ref_c) - (lp_r - ref_r)), lp and ref the log-probability of the whole
//           answer by the model and by the reference model (Rafailov et al., arXiv 2305.18290, equation 7; with ls the
//           conservative DPO of Mitchell, "A note on DPO with noisy preferences", 2023)
//   IPO     (d - 1 / (2 beta))^2,  d as h without beta, of log-probabilities divided by the answer's number of targets (Azar
//           et al., arXiv 2310.12036, equation 17; the mean in place of the sum as trl has it); label_smoothing is not used
//   REWARD  (1 - ls) s(d) + ls s(-d),  d = score_c - score_r (Ouyang et al., arXiv 2203.02155, equation 1)
// and for DPO and IPO `nll` times the negative log-likelihood of the chosen answer, per target or, with nll_summed, summed.
typedef enum { PREFERENCE_DPO, PREFERENCE_IPO, PREFERENCE_REWARD } PreferenceKind;
typedef struct {
    int kind;
    float beta, label_smoothing, nll;
    int nll_summed;
} PreferenceLoss;

// Sums over pairs. LOSS: the whole loss, the share of nll included. NLL: negative log-likelihood of the chosen answer, per
// target or summed, without the factor nll (0 for REWARD). CHOSEN, REJECTED: beta (lp - ref), which DPO calls rewards; the
// score for REWARD. CORRECT: 1 where the chosen answer's is the larger, 0.5 on a tie.
enum { PREFERENCE_LOSS, PREFERENCE_NLL, PREFERENCE_CHOSEN, PREFERENCE_REJECTED, PREFERENCE_CORRECT, PREFERENCE_SUMS };

// logprobs and counts [capacity], of which the batch's answers are written: minus the sum of `losses` over the answer's
// span, and how many of its targets are not -1. losses and targets [n]; the loss of an ignored target is 0.
void answer_logprobs(float *logprobs, float *counts, const float *losses, const int *targets, const int *spans,
                     const int *counters, int capacity, cudaStream_t stream);

// sums [PREFERENCE_SUMS] +=. dseq [capacity] = for the batch's answers, the derivative of the sum of all pairs' losses by
// the loss of any one target of the answer (DPO, IPO), or by the answer's score (REWARD). seq_logprobs: the answers'
// log-probabilities, or for REWARD their scores; ref_logprobs: those by the reference model; counts: as answer_logprobs has
// them; the latter two are NULL for REWARD. *spec is in HOST memory. No |h| overflows.
void preference_loss(float *sums, float *dseq, const float *seq_logprobs, const float *ref_logprobs,
                     const float *counts, const int *groups, const int *counters, int capacity,
                     const PreferenceLoss *spec, cudaStream_t stream);

// weights [n] = dseq[a] in the positions of answer a, 0 elsewhere.
void answer_weights(float *weights, const float *dseq, const int *spans, const int *counters, int n, int capacity,
                    cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
