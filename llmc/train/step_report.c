#include "train/step_report.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "device/trace.h"
#include "ranks/timeline.h"
#include "ranks/watchdog.h"

enum { SPANS = 1 << 18 };

int pace_open(Pace *pace, const Options *options, int64_t first_step, Error *err) {
    *pace = (Pace){.first_step = first_step};
    pace->shown = (ProgressState){0, options->steps, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NULL};
    return options_trace_steps(options, &pace->trace_first, &pace->trace_last, err);
}

int pace_begin_step(Pace *pace, const Team *team, const Options *options, bool pending, Error *err) {
    watchdog_phase("training");
    if (pending) return 0; // its clock starts in pace_end_step; where a timeline begins no step is pending
    pace->step_began = clock_seconds();
    if (!options->trace || pace->steps + 1 != pace->trace_first) return 0;
    return team_agree(team, trace_open(SPANS, err), err);
}

bool pace_traces(const Pace *pace) {
    const int64_t step = pace->steps + 1;
    return step == pace->trace_first - 1 || step == pace->trace_last;
}

static void note_communication(Pace *pace, LogRanks *c, const Team *team) {
    *c = (LogRanks){.ranks = team->size};
    if (team->size > 1) world_times(team->world, &c->comm_seconds, &c->exposed_seconds);
    pace->communicated.comm_seconds += c->comm_seconds;
    pace->communicated.exposed_seconds += c->exposed_seconds;
}

static void show(Pace *pace, const StepReport *report, const Run *run, int64_t steps_done) {
    ProgressState *s = &pace->shown;
    const double time = clock_seconds();
    const int64_t here = steps_done - pace->first_step;
    const double step_work = pace->flops_per_token * (double)run->options.tokens_per_step;
    const double left = step_work * (double)(run->stage_end - steps_done) + pace->later_work;
    if (here == 1) pace->after_first_step = time;
    if (here > 1) pace->work += step_work;
    s->step = steps_done;
    s->steps = run->options.steps;
    s->loss = report->loss;
    s->lr = report->lr;
    s->grad_norm = report->grad_norm;
    // smoothed over about the last ten steps to be readable, without the first two, in which libraries choose and kernels
    // are loaded; the log has each step's own
    const double weight = here <= 3 ? 1 : 0.1;
    s->tokens_per_second = (here == 1 ? 0 : (1 - weight) * s->tokens_per_second) + weight * report->tokens_per_second;
    if (pace->peak_flops > 0)
        s->share_of_peak = s->tokens_per_second * pace->flops_per_token / (pace->peak_flops * run->team.size);
    // estimated without the first step, which also warms caches up; evaluations are included
    s->seconds_left = pace->work > 0 && left > 0 ? (time - pace->after_first_step) / pace->work * left : NAN;
}

void pace_end_step(Pace *pace, StepReport *report, Run *run, int64_t steps_done) {
    note_communication(pace, &report->communication, &run->team);
    const double now = clock_seconds(), seconds = now - pace->step_began;
    pace->step_began = now;
    report->tokens_per_second = (double)run->options.tokens_per_step / seconds;
    pace->seconds += seconds;
    pace->steps++;
    show(pace, report, run, steps_done);
    if (pace->steps == pace->trace_last) pace_write_timeline(pace, run, steps_done);
}

void pace_write_timeline(Pace *pace, Run *run, int64_t step) {
    Error err = {0};
    const char *path = run->options.trace;
    if (!path || pace->steps < pace->trace_first || pace->traced) return;
    pace->traced = true;
    if (timeline_write(&run->team, path, &err) == 0)
        progress_print(&run->progress, "step %lld: timeline in %s", (long long)step, path);
    else if (team_leads(&run->team))
        error_print("no timeline: %s; training goes on", err.message);
}

static void print_communication(const Pace *pace, Run *run) {
    const LogRanks *c = &pace->communicated;
    if (run->team.size == 1 || pace->steps == 0) return;
    progress_print(&run->progress,
                   "communication %.3f s a step, waiting for other ranks included; not hidden by computing: %.3f s, "
                   "%.1f %% of a step",
                   c->comm_seconds / (double)pace->steps, c->exposed_seconds / (double)pace->steps,
                   100 * c->exposed_seconds / pace->seconds);
}

void pace_print_end(const Pace *pace, Run *run, int64_t step) {
    char span[24];
    progress_end(&run->progress); // the last step's line stays
    progress_span(span, sizeof span, clock_seconds() - pace->began);
    if (step >= run->options.steps)
        progress_print(&run->progress, "done after %lld steps, %s", (long long)step, span);
    else
        progress_print(&run->progress, "stopped by SIG%s after %lld steps, %s", sigabbrev_np(run_stop_signal(run)),
                       (long long)step, span);
    print_communication(pace, run);
}
