// Where stages begin and end, their steps, and the learning rate at each.
#include <math.h>
#include <stdio.h>

#include "recipe/recipe_members.h"

enum { MOST_BLOCK = 1 << 30 };

// ---- sizes and lengths

static int settle_step(const Recipe *recipe, int number, int ranks, Error *err) {
    Stage *stage = &recipe->stages[number];
    const int64_t micro_batches = stage->batch_size * stage->seq_len * ranks; // < 2^20 2^20 2^22
    char expected[160];
    stage->grad_accum = stage->tokens_per_step / micro_batches;
    if (stage->tokens_per_step % micro_batches == 0) return 0;
    snprintf(expected, sizeof expected, "a multiple of %lld: batch_size %lld times seq_len %lld times %d rank%s",
             (long long)micro_batches, (long long)stage->batch_size, (long long)stage->seq_len, ranks,
             ranks > 1 ? "s" : "");
    return recipe_refuse_stage(recipe, number, "tokens_per_step", stage->tokens_per_step, expected, err);
}

// How far a scaling of RoPE reaches is for the recipe to say; without one it is the model's own length.
static int check_row(const Recipe *recipe, int number, int max_position_embeddings, Error *err) {
    const Stage *stage = &recipe->stages[number];
    char expected[160];
    const bool scaled = stage->has_rope_scaling && stage->rope_type == ROPE_LLAMA3;
    if (scaled || max_position_embeddings == 0 || stage->seq_len <= max_position_embeddings) return 0;
    snprintf(expected, sizeof expected, "at most %d, the model's max_position_embeddings, or a rope_scaling",
             max_position_embeddings);
    return recipe_refuse_stage(recipe, number, "seq_len", stage->seq_len, expected, err);
}

static int settle_length(Recipe *recipe, int number, Error *err) {
    Stage *stage = &recipe->stages[number];
    char expected[160];
    if (!stage->steps) stage->steps = (stage->tokens + stage->tokens_per_step - 1) / stage->tokens_per_step;
    stage->first_step = recipe->total_steps;
    stage->first_token = recipe->total_tokens;
    if ((double)stage->steps * (double)stage->tokens_per_step > RECIPE_MOST_TOKENS)
        return recipe_refuse_stage(recipe, number, "steps", stage->steps, "at most 1e15 tokens in all", err);
    stage->tokens = stage->steps * stage->tokens_per_step;
    recipe->total_steps += stage->steps;
    recipe->total_tokens += stage->tokens;
    if (stage->average_last_steps <= stage->steps) return 0;
    snprintf(expected, sizeof expected, "at most the stage's %lld steps", (long long)stage->steps);
    return recipe_refuse_stage(recipe, number, "average", stage->average_last_steps, expected, err);
}

static int64_t common_multiple(int64_t a, int64_t b) {
    int64_t divisor = a, rest = b;
    while (rest) {
        const int64_t next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    return a / divisor * b;
}

// Of the lengths of stages 0 to number.
static int64_t block_until(const Recipe *recipe, int number) {
    int64_t block = 1;
    for (int i = 0; i <= number; i++) block = common_multiple(block, recipe->stages[i].seq_len);
    return block;
}

int recipe_block(const Recipe *recipe) { return (int)block_until(recipe, recipe->num_stages - 1); }

static int check_block(const Recipe *recipe, int number, Error *err) {
    if (block_until(recipe, number) <= MOST_BLOCK) return 0;
    return recipe_refuse_stage(recipe, number, "seq_len", recipe->stages[number].seq_len,
                               "a length whose least common multiple with those before it is at most 2^30", err);
}

int recipe_settle(Recipe *recipe, int ranks, int max_position_embeddings, Error *err) {
    int code = 0;
    recipe->total_steps = recipe->total_tokens = 0;
    for (int i = 0; !code && i < recipe->num_stages; i++) {
        code = settle_step(recipe, i, ranks, err);
        if (!code) code = check_row(recipe, i, max_position_embeddings, err);
        if (!code) code = check_block(recipe, i, err);
        if (!code) code = settle_length(recipe, i, err);
    }
    return code;
}

int64_t recipe_longest_row(const Recipe *recipe) {
    int64_t longest = 0;
    for (int i = 0; i < recipe->num_stages; i++)
        if (recipe->stages[i].seq_len > longest) longest = recipe->stages[i].seq_len;
    return longest;
}

void recipe_shares(const Recipe *recipe, int stage, double *weights, double *weights_at_end) {
    const Stage *s = &recipe->stages[stage];
    double sum = 0, sum_at_end = 0;
    for (int i = 0; i < recipe->num_sources; i++) weights[i] = weights_at_end[i] = 0;
    for (int i = 0; i < s->num_weights; i++) {
        sum += s->mixture[i].weight;
        sum_at_end += s->mixture[i].weight_at_end;
    }
    for (int i = 0; i < s->num_weights; i++) {
        weights[s->mixture[i].source] = s->mixture[i].weight / sum;
        weights_at_end[s->mixture[i].source] = s->mixture[i].weight_at_end / sum_at_end;
    }
}

// ---- the learning rate

// done: of the piece's length, 0 < done <= length.
static double piece_rate(const RatePiece *piece, int64_t done, int64_t length) {
    const double progress = (double)done / (double)length;
    if (piece->shape == RATE_CONSTANT || done >= length) return piece->to;
    const double way = piece->shape == RATE_LINEAR ? progress : 0.5 * (1 - cos(3.14159265358979323846 * progress));
    return piece->from + (piece->to - piece->from) * way;
}

// at: tokens or steps from the beginning of the pieces to the update's end; end: where the last piece ends that says no length.
static double pieces_rate(const LearningRate *rate, int64_t at, int64_t end) {
    for (int i = 0; i < rate->count; i++) {
        const RatePiece *piece = &rate->pieces[i];
        const int64_t length = piece->length ? piece->length : end;
        if (at <= length) return piece_rate(piece, at, length);
        at -= length;
        end -= length;
    }
    return rate->pieces[rate->count - 1].to;
}

double recipe_rate(const Recipe *recipe, int stage, int64_t step_in_stage, int64_t step, int64_t tokens) {
    const Stage *s = &recipe->stages[stage];
    const LearningRate *own = &s->rate, *all = &recipe->rate;
    if (own->count && own->in_steps) return pieces_rate(own, step_in_stage + 1, s->steps);
    if (own->count) return pieces_rate(own, (step_in_stage + 1) * s->tokens_per_step, s->tokens);
    if (all->in_steps) return pieces_rate(all, step + 1, recipe->total_steps);
    return pieces_rate(all, tokens + s->tokens_per_step, recipe->total_tokens);
}

int64_t recipe_piece_end(const Recipe *recipe, int stage, int piece) {
    const Stage *s = &recipe->stages[stage];
    const LearningRate *rate = s->rate.count ? &s->rate : &recipe->rate;
    int64_t end = s->rate.count ? 0 : rate->in_steps ? -s->first_step : -s->first_token;
    for (int i = 0; i <= piece; i++) end += rate->pieces[i].length;
    const int64_t step = (rate->in_steps ? end : end / s->tokens_per_step) - 1;
    return rate->pieces[piece].length && step >= 0 && step < s->steps ? step : -1;
}
