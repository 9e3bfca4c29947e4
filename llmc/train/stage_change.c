#include "train/stage_change.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "run/progress.h"

typedef struct {
    char *text;
    size_t capacity, length;
} Text;

__attribute__((format(printf, 2, 3))) static void add(Text *to, const char *format, ...) {
    va_list arguments;
    const size_t room = to->capacity - to->length;
    va_start(arguments, format);
    const int length = vsnprintf(to->text + to->length, room, format, arguments);
    va_end(arguments);
    to->length += (size_t)length < room ? (size_t)length : room - 1;
}

static void add_tokens(Text *to, int64_t now, int64_t was) {
    char is[16], before[16];
    if (now == was) return;
    progress_count(is, sizeof is, (double)now);
    progress_count(before, sizeof before, (double)was);
    add(to, ", %s tokens a step (%s)", is, before);
}

static void add_rope(Text *to, const Stage *now, const Stage *was) {
    if (now->rope_theta != was->rope_theta) add(to, ", rope_theta %g", now->rope_theta);
    if (now->has_rope_scaling == was->has_rope_scaling && now->rope_type == was->rope_type &&
        now->rope_factor == was->rope_factor)
        return;
    if (now->rope_type == ROPE_LLAMA3)
        add(to, ", RoPE scaled by %g", now->rope_factor);
    else
        add(to, ", RoPE not scaled");
}

static void add_shares(Text *to, const Recipe *recipe, int stage) {
    double is[2][RECIPE_MAX_SOURCES], was[2][RECIPE_MAX_SOURCES];
    const size_t bytes = (size_t)recipe->num_sources * sizeof(double);
    recipe_shares(recipe, stage, is[0], is[1]);
    recipe_shares(recipe, stage - 1, was[0], was[1]);
    if (memcmp(is[0], was[1], bytes) == 0 && memcmp(is[0], is[1], bytes) == 0) return;
    for (int i = 0; i < recipe->num_sources; i++) {
        if (is[0][i] == 0 && is[1][i] == 0) continue;
        add(to, ", %s %.3g %%", recipe->sources[i].name, 100 * is[0][i]);
        if (is[0][i] != is[1][i]) add(to, " to %.3g %%", 100 * is[1][i]);
    }
}

void stage_describe_change(char *text, size_t capacity, const Recipe *recipe, int stage) {
    const Stage *now = &recipe->stages[stage], *was = stage ? now - 1 : now;
    Text to = {.text = text, .capacity = capacity};
    add(&to, "%s: %lld steps", now->name, (long long)now->steps);
    if (now->seq_len != was->seq_len)
        add(&to, ", rows of %lld tokens (%lld)", (long long)now->seq_len, (long long)was->seq_len);
    add_tokens(&to, now->tokens_per_step, was->tokens_per_step);
    if (now->batch_size != was->batch_size)
        add(&to, ", micro-batches of %lld rows (%lld)", (long long)now->batch_size, (long long)was->batch_size);
    if (now->document_mask != was->document_mask) add(&to, ", document mask %s", now->document_mask ? "on" : "off");
    add_rope(&to, now, was);
    if (stage) add_shares(&to, recipe, stage);
    if (now->average_last_steps && now->average_last_steps != was->average_last_steps)
        add(&to, ", weights averaged over the last %lld", (long long)now->average_last_steps);
}
