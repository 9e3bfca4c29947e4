// The training step: forward, backward and update, in the order in which data flows. Between forward and backward stands
// the loss, llama3_loss.c.
//
// One block, pre-norm (llama3-herd paper section 3.2; names as in transformers):
//   h   = x + o_proj(attention(rope(qkv(norm1(x)))))
//   out = h + down_proj(silu(gate) * up),  [gate | up] = gate_up(norm2(h))
#include "model/llama3_internal.h"

#include <string.h>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/grad_norm.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/update_gate.h"
#include "device/trace.h"

static float *norm_gradient(Llama3 *m, size_t w) { return shards_gradient(m, m->table.norm_bucket, w); }

int llama3_layer_bucket(int l) { return 1 + l; }

// ---- forward

// From norm1 to the swiglu; leaves all that the block's backward pass needs. `rows` rows of `length` tokens.
static void block_inside(Llama3 *m, int l, int rows, int length) {
    const LlamaConfig *c = &m->config;
    const LayerActivations *a = &m->layers[l];
    const LayerOffsets *w = &m->table.layers[l];
    const int N = rows * length, C = c->hidden_size, F = c->intermediate_size;
    const AttentionShape shape = llama3_attention_shape(m, rows, length);
    const AttentionMask mask = {m->doc_start, m->hidden};
    llama3_project(m, a->qkv, a->norm1, l, UNIT_QKV, N);
    rope_forward(a->qkv, m->rope, mask, shape, m->stream);
    attention_forward(a->attention, a->lse, a->qkv, mask, shape, m->stream);
    llama3_project(m, m->delta, a->attention, l, UNIT_OUTPUT, N);
    add_rmsnorm_forward(a->residual2, a->norm2, a->rstd2, a->residual1, m->delta, m->params + w->ffn_norm, N, C,
                        c->rms_norm_eps, m->stream);
    llama3_project(m, a->gate_up, a->norm2, l, UNIT_GATE_UP, N);
    swiglu_forward(a->swiglu, a->gate_up, N, F, m->stream);
}

// residual_out = residual2 of block l-1 + delta, and its norm; block 0's input is the embedding, already there.
static void enter_block(Llama3 *m, int l, int N) {
    const LayerActivations *a = &m->layers[l];
    const floatX *weight = m->params + m->table.layers[l].attention_norm;
    const int C = m->config.hidden_size;
    const float eps = m->config.rms_norm_eps;
    if (l == 0)
        rmsnorm_forward(a->norm1, a->rstd1, a->residual1, weight, N, C, eps, m->stream);
    else
        add_rmsnorm_forward(a->residual1, a->norm1, a->rstd1, m->layers[l - 1].residual2, m->delta, weight, N, C, eps,
                            m->stream);
}

void llama3_run_forward(Llama3 *m, int rows, int length) { llama3_forward_visit(m, rows, length, NULL, NULL); }

void llama3_forward_visit(Llama3 *m, int rows, int length, LayerVisit visit, void *context) {
    const int N = rows * length, C = m->config.hidden_size;
    const int L = m->config.num_hidden_layers;
    shards_await(m, 0);
    embedding_forward(m->layers[0].residual1, m->tokens, m->params + m->table.embedding, N, C, m->stream);
    shards_await(m, m->table.norm_bucket);
    for (int l = 0; l < L; l++) {
        shards_await(m, llama3_layer_bucket(l));
        trace_begin(LANE_COMPUTE, "forward, layer", l, m->stream);
        enter_block(m, l, N);
        block_inside(m, l, rows, length);
        if (visit) visit(context, l, m->layers[l].qkv);
        llama3_project(m, m->delta, m->layers[l].swiglu, l, UNIT_DOWN, N);
        trace_end(LANE_COMPUTE, m->stream);
    }
    add_rmsnorm_forward(m->residual_final, m->norm_final, m->rstd_final, m->layers[L - 1].residual2, m->delta,
                        m->params + m->table.final_norm, N, C, m->config.rms_norm_eps, m->stream);
}

// ---- backward

static void ffn_backward(Llama3 *m, int l) {
    const LayerActivations *a = &m->layers[l];
    const LayerOffsets *w = &m->table.layers[l];
    const int N = llama3_rows(m), C = m->config.hidden_size, F = m->config.intermediate_size;
    llama3_project_backward(m, m->dswiglu, m->dresidual, a->swiglu, l, UNIT_DOWN, N);
    swiglu_backward(m->dgate_up, m->dswiglu, a->gate_up, N, F, m->stream);
    llama3_project_backward(m, m->dnorm, m->dgate_up, a->norm2, l, UNIT_GATE_UP, N);
    rmsnorm_backward(m->dresidual, norm_gradient(m, w->ffn_norm), m->rmsnorm_scratch, m->dnorm, m->dresidual,
                     a->residual2, m->params + w->ffn_norm, a->rstd2, N, C, m->stream);
}

static void attention_block_backward(Llama3 *m, int l) {
    const LayerActivations *a = &m->layers[l];
    const LayerOffsets *w = &m->table.layers[l];
    const int N = llama3_rows(m), C = m->config.hidden_size;
    const AttentionShape shape = llama3_attention_shape(m, m->shape.B, m->shape.T);
    const AttentionMask mask = {m->doc_start, m->hidden};
    llama3_project_backward(m, m->dattention, m->dresidual, a->attention, l, UNIT_OUTPUT, N);
    attention_backward(m->dqkv, m->attention_scratch, m->dattention, a->attention, a->qkv, a->lse, mask, shape,
                       m->stream);
    rope_backward(m->dqkv, m->rope, mask, shape, m->stream);
    llama3_project_backward(m, m->dnorm, m->dqkv, a->norm1, l, UNIT_QKV, N);
    rmsnorm_backward(m->dresidual, norm_gradient(m, w->attention_norm), m->rmsnorm_scratch, m->dnorm, m->dresidual,
                     a->residual1, m->params + w->attention_norm, a->rstd1, N, C, m->stream);
}

// The last block's activations are still there from the forward pass.
static void recompute_block(Llama3 *m, int l) {
    if (!m->shape.recompute || l == m->config.num_hidden_layers - 1) return;
    const LayerActivations *a = &m->layers[l];
    rmsnorm_forward(a->norm1, a->rstd1, a->residual1, m->params + m->table.layers[l].attention_norm, llama3_rows(m),
                    m->config.hidden_size, m->config.rms_norm_eps, m->stream);
    block_inside(m, l, m->shape.B, m->shape.T);
}

static void final_norm_backward(Llama3 *m) {
    rmsnorm_backward(m->dresidual, norm_gradient(m, m->table.final_norm), m->rmsnorm_scratch, m->dnorm, NULL,
                     m->residual_final, m->params + m->table.final_norm, m->rstd_final, llama3_rows(m),
                     m->config.hidden_size, m->stream);
}

// Down to the lowest depth at which something is trained.
static void layers_backward(Llama3 *m) {
    const int N = llama3_rows(m), C = m->config.hidden_size, L = m->config.num_hidden_layers, lowest = m->table.lowest;
    shards_open(m, m->table.norm_bucket);
    if (lowest <= 2 * L) final_norm_backward(m);
    for (int l = L - 1; l >= 0 && lowest <= 2 * l + 1; l--) {
        trace_begin(LANE_COMPUTE, "backward, layer", l, m->stream);
        shards_open(m, llama3_layer_bucket(l));
        recompute_block(m, l);
        ffn_backward(m, l);
        if (lowest <= 2 * l) attention_block_backward(m, l);
        shards_close(m, llama3_layer_bucket(l));
        trace_end(LANE_COMPUTE, m->stream);
    }
    shards_close(m, m->table.norm_bucket);
    if (lowest >= 0) return;
    if (m->table.head_bucket != 0) shards_open(m, 0);
    embedding_backward(shards_gradient(m, 0, m->table.embedding), m->dresidual, m->tokens, m->order, N, C, m->stream);
    shards_close(m, 0);
}

// ---- the step

Batch *llama3_batch(Llama3 *m, int i) { return &m->batches[i]; }

float *llama3_ref_logprobs(Llama3 *m, int i) {
    return m->host_reference ? m->host_reference + (size_t)i * (size_t)llama3_answers_at_most(m) : NULL;
}

static void upload(Llama3 *m, int32_t *to, const int32_t *from, size_t count) {
    cuda_check(cudaMemcpyAsync(to, from, count * sizeof *to, cudaMemcpyHostToDevice, m->stream));
}

static void upload_batch(Llama3 *m, const Batch *batch) {
    const size_t N = (size_t)llama3_rows(m);
    upload(m, m->tokens, batch->tokens, N);
    upload(m, m->targets, batch->targets, N);
    upload(m, m->doc_start, batch->doc_start, N);
    upload(m, m->order, batch->order, N);
}

// Of micro-batch i, which its forward and backward pass use.
static void upload_comparisons(Llama3 *m, int i) {
    const Batch *batch = &m->batches[i];
    const size_t answers = (size_t)llama3_answers_at_most(m);
    Comparisons *c = &m->comparisons;
    int32_t *counters = m->host_counters + 2 * (size_t)i;
    m->hidden = NULL;
    if (!m->shape.comparisons) return;
    m->hidden = c->hidden;
    counters[0] = batch->num_answers;
    counters[1] = batch->num_groups;
    upload(m, c->counters, counters, 2);
    upload(m, c->hidden, batch->excluded, 2 * (size_t)llama3_rows(m));
    upload(m, c->spans, &batch->answers->first, 2 * (size_t)batch->num_answers);
    upload(m, c->groups, &batch->groups->first, 2 * (size_t)batch->num_groups);
    cuda_check(cudaMemcpyAsync(c->reference, m->host_reference + (size_t)i * answers,
                               (size_t)batch->num_answers * sizeof *c->reference, cudaMemcpyHostToDevice, m->stream));
}

static void upload_scalars(Llama3 *m) {
    cuda_check(cudaMemcpyAsync(m->scalars, m->host_scalars, sizeof *m->scalars, cudaMemcpyHostToDevice, m->stream));
}

void llama3_begin_step(Llama3 *m, int64_t num_targets) {
    m->host_scalars->loss_scale = num_targets > 0 ? 1.0f / (float)num_targets : 0.0f;
    upload_scalars(m);
    cuda_check(cudaMemsetAsync(m->result, 0, sizeof *m->result, m->stream));
    if (m->shape.training) shards_begin_step(m);
}

void llama3_forward(Llama3 *m, int i) {
    m->last_micro_batch = i == m->shape.micro_batches - 1;
    upload_batch(m, &m->batches[i]);
    upload_comparisons(m, i);
    llama3_run_forward(m, m->shape.B, m->shape.T);
}

void llama3_loss(Llama3 *m) { llama3_make_loss(m, true); }

void llama3_backward(Llama3 *m) {
    layers_backward(m);
    m->hidden = NULL;
}

void llama3_forward_loss(Llama3 *m, int i) {
    upload_batch(m, &m->batches[i]);
    upload_comparisons(m, i);
    llama3_run_forward(m, m->shape.B, m->shape.T);
    llama3_make_loss(m, false);
    m->hidden = NULL;
}

// Forward over what is uploaded, `rows` rows of `length`.
static void value_answers(Llama3 *m, int i, int rows, int length, float *values) {
    const size_t bytes = (size_t)m->batches[i].num_answers * sizeof *values;
    upload_comparisons(m, i);
    llama3_run_forward(m, rows, length);
    llama3_value_answers(m);
    m->hidden = NULL;
    cuda_check(cudaMemcpyAsync(values, m->comparisons.values, bytes, cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
}

void llama3_answer_values(Llama3 *m, int i, float *values) {
    upload_batch(m, &m->batches[i]);
    value_answers(m, i, m->shape.B, m->shape.T, values);
}

void llama3_scores(Llama3 *m, int rows, int length, float *scores) {
    const Batch *batch = &m->batches[0];
    const size_t N = (size_t)rows * (size_t)length;
    upload(m, m->tokens, batch->tokens, N);
    upload(m, m->doc_start, batch->doc_start, N);
    value_answers(m, 0, rows, length, scores);
}

void llama3_token_losses(Llama3 *m, int i, bool forward, float *losses) {
    const size_t N = (size_t)llama3_rows(m);
    if (forward) {
        upload_batch(m, &m->batches[i]);
        llama3_run_forward(m, m->shape.B, m->shape.T);
    } else {
        upload(m, m->targets, m->batches[i].targets, N);
    }
    llama3_token_loss(m, false);
    cuda_check(cudaMemcpyAsync(losses, m->losses, N * sizeof *losses, cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
}

static void add_squares(Llama3 *m, int range) {
    const ShardPiece p = shards_piece(m, range);
    if (p.count) sum_squares(&m->result->square_sum, m->norm_scratch, p.grads, p.count, m->stream);
}

static void update_range(Llama3 *m, int range) {
    const ShardPiece p = shards_piece(m, range);
    if (p.count == 0) return;
    adamw_update(p.params, p.master, p.moment1, p.moment2, p.grads, &m->result->apply, &m->result->grad_norm,
                 &m->scalars->adamw, m->table.buckets[m->table.ranges[range].bucket].decay, p.count, m->stream);
}

static void update_bucket(Llama3 *m, int bucket) {
    for (int r = 0; r < m->table.num_ranges; r++)
        if (m->table.ranges[r].bucket == bucket) update_range(m, r);
    shards_gather(m, bucket);
}

void llama3_clip_and_adamw(Llama3 *m, const AdamWStep *step, float max_loss) {
    const int norms = m->table.norm_bucket;
    m->host_scalars->max_loss = max_loss;
    m->host_scalars->adamw = *step; // loss_scale stays, so a copy still under way reads the same
    upload_scalars(m);
    shards_finish_gradients(m);
    trace_begin(LANE_COMPUTE, "update", -1, m->stream);
    for (int r = 0; r < m->table.num_ranges; r++) add_squares(m, r);
    shards_sum_result(m);
    norm_of_squares(&m->result->grad_norm, &m->result->square_sum, m->stream);
    update_gate(&m->result->apply, &m->result->sums[PREFERENCE_LOSS], &m->scalars->loss_scale, &m->scalars->max_loss,
                &m->result->grad_norm, m->stream);
    shards_await_all(m);     // where no forward pass has waited for the last step's parameters
    update_bucket(m, norms); // in the order in which the forward pass needs them
    for (int b = 0; b < norms; b++) update_bucket(m, b);
    trace_end(LANE_COMPUTE, m->stream);
}

void llama3_result(Llama3 *m, float *loss, float *grad_norm) {
    cuda_check(cudaMemcpyAsync(m->host_result, m->result, sizeof *m->host_result, cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
    *loss = m->host_result->sums[PREFERENCE_LOSS] * m->host_scalars->loss_scale;
    if (grad_norm) *grad_norm = m->host_result->grad_norm;
}

const float *llama3_step_sums(const Llama3 *m) { return m->host_result->sums; }

bool llama3_update_applied(const Llama3 *m) { return m->host_result->apply != 0; }

// ---- logits

static float widen(floatX x) {
#ifdef LLMC_PRECISION_fp32
    return x;
#else
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

void llama3_logits(Llama3 *m, const int32_t *tokens, int n, float *logits) {
    const int C = m->config.hidden_size, VP = m->table.padded_vocab;
    cuda_check(cudaMemcpyAsync(m->tokens, tokens, (size_t)n * sizeof *tokens, cudaMemcpyHostToDevice, m->stream));
    cuda_check(cudaMemsetAsync(m->doc_start, 0, (size_t)n * sizeof *m->doc_start, m->stream));
    llama3_run_forward(m, 1, n);
    shards_await(m, m->table.head_bucket);
    llama3_linear(m, m->logits, m->norm_final + (size_t)(n - 1) * (size_t)C, m->table.head, 1, VP, C);
    cuda_check(
        cudaMemcpyAsync(m->host_logits, m->logits, (size_t)VP * sizeof(floatX), cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
    for (int i = 0; i < m->config.vocab_size; i++) logits[i] = widen(m->host_logits[i]);
}
