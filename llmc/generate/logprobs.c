#include "generate/logprobs.h"

#include <math.h>

static float value_of(float logit) { return isnan(logit) ? -INFINITY : logit; }

// Puts the token into its place among the `count` ids found so far, of `tops` at most; returns how many there are then.
static int insert(int32_t *ids, int count, int tops, const float *logits, int32_t token) {
    const float value = value_of(logits[token]);
    if (count == tops && !(value > value_of(logits[ids[count - 1]]))) return count;
    if (count < tops) count++;
    int at = count - 1;
    for (; at > 0 && value > value_of(logits[ids[at - 1]]); at--) ids[at] = ids[at - 1];
    ids[at] = token;
    return count;
}

float logprobs_of(const float *logits, int vocab_size, int32_t token, int tops, int32_t *top_ids, float *top_logprobs) {
    float largest = -INFINITY;
    int count = 0;
    for (int32_t i = 0; i < vocab_size; i++) {
        if (logits[i] > largest) largest = logits[i];
        if (tops) count = insert(top_ids, count, tops, logits, i);
    }
    double sum = 0;
    for (int32_t i = 0; i < vocab_size; i++) sum += expf(value_of(logits[i]) - largest);
    const double base = largest + log(sum);
    for (int i = 0; i < count; i++) top_logprobs[i] = (float)(value_of(logits[top_ids[i]]) - base);
    return (float)(value_of(logits[token]) - base);
}
