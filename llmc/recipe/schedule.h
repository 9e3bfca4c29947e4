// The learning rate: linear warmup to the peak, then half a cosine down to a fraction of it (Llama 3, 3.4.1), or a straight
// line (3.4.3: annealing, to 0).
#ifndef LLMC_RECIPE_SCHEDULE_H
#define LLMC_RECIPE_SCHEDULE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SCHEDULE_COSINE, SCHEDULE_LINEAR };

typedef struct {
    double peak;
    int64_t warmup_steps, total_steps; // 0 <= warmup_steps <= total_steps
    double final_fraction;             // of the peak, reached at the last step
    int form;                          // SCHEDULE_*: the shape of the decay
} Schedule;

// The learning rate of the update `step`, 0 <= step < total_steps. In a warmup of W steps, step 0 has peak/W and step W-1
// the peak.
double schedule_lr(const Schedule *schedule, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
