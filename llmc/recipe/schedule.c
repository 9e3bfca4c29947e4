#include "recipe/schedule.h"

#include <math.h>

double schedule_lr(const Schedule *schedule, int64_t step) {
    int64_t done = step + 1; // so that no update has rate 0 at the start, and the last one has exactly the final rate
    if (done <= schedule->warmup_steps) return schedule->peak * (double)done / (double)schedule->warmup_steps;
    int64_t length = schedule->total_steps - schedule->warmup_steps;
    double progress = done < schedule->total_steps ? (double)(done - schedule->warmup_steps) / (double)length : 1;
    double left = schedule->form == SCHEDULE_LINEAR ? 1 - progress : 0.5 * (1 + cos(3.14159265358979323846 * progress));
    return schedule->peak * (schedule->final_fraction + (1 - schedule->final_fraction) * left);
}
