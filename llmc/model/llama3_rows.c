// The shape of micro-batches, and RoPE: what a model is planned for, and how they change between steps.
#include <assert.h>
#include <limits.h>

#include "kernels/attention.h"
#include "kernels/rope.h"
#include "model/llama3_state.h"

int llama3_max_tokens(const Llama3 *m) { return m->limits.T; }
int llama3_max_positions(const Llama3 *m) { return m->limits.positions; }

static int check(const LlamaConfig *config, RowShape rows, Error *err) {
    if (rows.B < 1 || rows.T < 1 || rows.micro_batches < 1)
        return fail_input(err, "batch of %d rows of %d tokens in %d micro-batches: each must be at least 1", rows.B,
                          rows.T, rows.micro_batches);
    if (rows.T > config->max_position_embeddings)
        return fail_input(err, "sequence length %d is longer than the model's max_position_embeddings, %d", rows.T,
                          config->max_position_embeddings);
    if ((int64_t)rows.B * rows.T > INT32_MAX / 8)
        return fail_input(err, "micro-batch of %d x %d tokens, expected at most %d", rows.B, rows.T, INT32_MAX / 8);
    return 0;
}

static ShapeLimits needs(const Llama3 *m, RowShape rows) {
    const int N = rows.B * rows.T;
    const size_t micro_batches = (size_t)rows.micro_batches;
    return (ShapeLimits){
        .positions = N,
        .T = rows.T,
        .micro_batches = rows.micro_batches,
        .batch_bytes = micro_batches * llama3_batch_bytes(N),
        .ref_logprobs = micro_batches * (size_t)(N / 2),
        .attention_scratch =
            m->shape.training ? attention_backward_scratch(llama3_attention_shape(m, rows.B, rows.T)) : 0,
    };
}

// Of each the larger.
static ShapeLimits most_of(ShapeLimits a, ShapeLimits b) {
    if (a.positions < b.positions) a.positions = b.positions;
    if (a.T < b.T) a.T = b.T;
    if (a.micro_batches < b.micro_batches) a.micro_batches = b.micro_batches;
    if (a.batch_bytes < b.batch_bytes) a.batch_bytes = b.batch_bytes;
    if (a.ref_logprobs < b.ref_logprobs) a.ref_logprobs = b.ref_logprobs;
    if (a.attention_scratch < b.attention_scratch) a.attention_scratch = b.attention_scratch;
    return a;
}

int llama3_find_limits(Llama3 *m, Error *err) {
    RunShape *shape = &m->shape;
    RowShape rows = {shape->B, shape->T, shape->micro_batches};
    if (shape->average && shape->master_weights == MASTER_NONE)
        return fail_input(err, "a running average of the weights needs master weights in fp32");
    for (int i = -1;; rows = shape->rows[i]) {
        int failed = check(&m->config, rows, err);
        if (failed) return failed;
        m->limits = most_of(m->limits, needs(m, rows));
        if (++i == shape->num_rows) break;
    }
    shape->rows = NULL; // the caller's
    shape->num_rows = 0;
    return 0;
}

static bool are_equal(ShapeLimits a, ShapeLimits b) {
    return a.positions == b.positions && a.T == b.T && a.micro_batches == b.micro_batches &&
           a.batch_bytes == b.batch_bytes && a.ref_logprobs == b.ref_logprobs &&
           a.attention_scratch == b.attention_scratch;
}

void llama3_set_rows(Llama3 *m, RowShape rows) {
    assert(are_equal(most_of(m->limits, needs(m, rows)), m->limits)); // memory is there
    m->shape.B = rows.B;
    m->shape.T = rows.T;
    m->shape.micro_batches = rows.micro_batches;
    llama3_place_batches(m);
    llama3_forget_graphs(m);
}

void llama3_upload_rope(Llama3 *m) {
    const LlamaConfig *c = &m->config;
    const RopeScaling scaling = {c->rope_factor, c->rope_low_freq_factor, c->rope_high_freq_factor,
                                 c->rope_original_max_position};
    const size_t bytes = (size_t)m->limits.T * (size_t)c->head_dim * sizeof(float);
    rope_table(m->host.rope, m->limits.T, c->head_dim, c->rope_theta, c->rope_type == ROPE_LLAMA3 ? &scaling : NULL);
    cuda_check(cudaMemcpy(m->rope, m->host.rope, bytes, cudaMemcpyHostToDevice));
}

void llama3_set_rope(Llama3 *m, double theta, const RopeScaling *scaling) {
    const RopeScaling none = {0};
    LlamaConfig *c = &m->config;
    c->rope_type = scaling ? ROPE_LLAMA3 : ROPE_DEFAULT;
    if (!scaling) scaling = &none;
    c->rope_theta = theta;
    c->rope_factor = scaling->factor;
    c->rope_low_freq_factor = scaling->low_freq_factor;
    c->rope_high_freq_factor = scaling->high_freq_factor;
    c->rope_original_max_position = scaling->original_max_position;
    llama3_upload_rope(m);
}
