// The network and its training step, in the order in which data flow: embedding → blocks → final norm → loss, back again
// in reverse, then clipping and AdamW. Matrix products and their adapters come last.
//
// One block, pre-norm (llama3-herd paper section 3.2; names as in transformers):
//   h   = x + o_proj(attention(rope(qkv(norm1(x)))))
//   out = h + down_proj(silu(gate) * up),  [gate | up] = gate_up(norm2(h))
//
// Gradients of parameters lie in buckets, one a block: a step's first micro-batch writes them, the others add to them, and
// the ranks sum them while the backward pass goes on. Before a pass uses a bucket's parameters it waits for those that other
// ranks have updated (zero.h).
#include "model/llama3.h"

#include "device/matmul.h"
#include "device/trace.h"
#include "kernels/classifier.h"
#include "kernels/embedding.h"
#include "kernels/grad_norm.h"
#include "kernels/lora.h"
#include "kernels/reward_head.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/update_gate.h"
#include "model/llama3_state.h"

static int layer_bucket(int l) { return 1 + l; }

// A weight w[OC,IC] at an offset of the parameters.
typedef struct {
    size_t at;
    int OC, IC;
} Matrix;

// Where a weight's gradient lies; add: += what is there, not =.
typedef struct {
    int bucket;
    bool add;
} GradientPlace;

// The products of a linear layer y[N,OC] = x[N,IC] · w^T; backward: the weight's gradient (none where w is frozen) and dx (=;
// NULL: not needed).
static void linear(Llama3 *m, floatX *y, const floatX *x, Matrix w, int N, int most);
static void linear_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, Matrix w, GradientPlace dw,
                            int N);

// The backward pass of llama3_project: gradients of the matrices that are trained, and dx (=).
static void project_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, int layer, LayerUnit unit);

static GradientPlace gradient_place(const Llama3 *m, int bucket) {
    return (GradientPlace){bucket, bucket_accumulates(m->zero, bucket)};
}

// Where no other rank has gradients, the norm's part of a bucket follows at once, as far as it is still in the caches. In
// matrix products, which are a library's, there is no place for it.
static void square_bucket(Llama3 *m, int bucket) {
    for (int r = 0; r < m->table.num_ranges; r++) {
        if (m->table.ranges[r].bucket != bucket) continue;
        const ZeroPiece p = zero_piece(m->zero, r);
        if (p.count) sum_squares(m->optimizer.square_sums + r, m->optimizer.norm_scratch, p.grads, p.count, m->stream);
    }
}

static void end_bucket(Llama3 *m, int bucket) {
    if (grad_bucket_ready(m->zero, bucket, m->batch.last)) square_bucket(m, bucket);
}

// ---- forward

// Takes `rows` rows of `length` tokens through block l. again: from the block's input, which was kept, everything that its
// backward pass needs is computed again.
static void block_forward(Llama3 *m, int l, int rows, int length, bool again) {
    BlockInputs *inputs = &m->acts.inputs;
    const LlamaConfig *c = &m->config;
    const LayerActivations *a = &m->acts.layers[l];
    const LayerOffsets *w = &m->table.layers[l];
    const AttentionShape shape = llama3_attention_shape(m, rows, length);
    const AttentionMask mask = {m->batch.doc_start, m->batch.excluded};
    const int N = rows * length, C = c->hidden_size, F = c->intermediate_size;
    const float eps = c->rms_norm_eps;
    floatX *branch_out = m->acts.branch_out;
    // 1. attention norm, together with the residual sum that ends the block before
    if (l && !again) block_input_wait(inputs, l, m->stream);
    if (l == 0 || again)
        rmsnorm_forward(a->norm1, a->rstd1, a->residual1, m->params + w->attention_norm, N, C, eps, m->stream);
    else
        add_rmsnorm_forward(a->residual1, a->norm1, a->rstd1, m->acts.layers[l - 1].residual2, branch_out,
                            m->params + w->attention_norm, N, C, eps, m->stream);
    if (!again) block_input_written(inputs, l, (size_t)N * (size_t)C * sizeof(floatX), m->stream);
    // 2. queries, keys and values
    llama3_project(m, a->qkv, a->norm1, l, UNIT_QKV, N, 0);
    // 3. rotation by position
    rope_forward(a->qkv, m->rope, mask, shape, m->stream);
    // 4. attention
    llama3_attention_forward(m, a, mask, shape);
    // 5. output projection
    llama3_project(m, branch_out, a->attention, l, UNIT_OUTPUT, N, 0);
    // 6. residual sum and FFN norm
    add_rmsnorm_forward(a->residual2, a->norm2, a->rstd2, a->residual1, branch_out, m->params + w->ffn_norm, N, C, eps,
                        m->stream);
    // 7. gate and up
    llama3_project(m, a->gate_up, a->norm2, l, UNIT_GATE_UP, N, 0);
    // 8. SwiGLU
    swiglu_forward(a->swiglu, a->gate_up, N, F, m->stream);
    // 9. down projection; its sum with residual2 is made together with the next norm
    if (!again) llama3_project(m, branch_out, a->swiglu, l, UNIT_DOWN, N, 0);
}

void llama3_run_forward(Llama3 *m, int rows, int length, LayerVisit visit, void *context) {
    const Activations *acts = &m->acts;
    const int N = rows * length, C = m->config.hidden_size, L = m->config.num_hidden_layers;
    param_wait(m->zero, 0);
    block_input_wait(&m->acts.inputs, 0, m->stream);
    embedding_forward(acts->layers[0].residual1, m->batch.tokens, m->params + m->table.embedding, N, C, m->stream);
    param_wait(m->zero, m->table.norm_bucket);
    for (int l = 0; l < L; l++) {
        param_wait(m->zero, layer_bucket(l));
        trace_begin(LANE_COMPUTE, "forward, layer", l, m->stream);
        block_forward(m, l, rows, length, false);
        if (visit) visit(context, l, acts->layers[l].qkv);
        trace_end(LANE_COMPUTE, m->stream);
    }
    add_rmsnorm_forward(acts->final_residual, acts->final_norm, acts->final_rstd, acts->layers[L - 1].residual2,
                        acts->branch_out, m->params + m->table.final_norm, N, C, m->config.rms_norm_eps, m->stream);
}

void llama3_forward(Llama3 *m, int i) {
    llama3_upload_batch(m, i);
    llama3_run_forward(m, m->shape.B, m->shape.T, NULL, NULL);
}

const floatX *llama3_forward_text(Llama3 *m, const int32_t *tokens, int n, LayerVisit visit, void *context) {
    llama3_upload_text(m, tokens, n);
    llama3_run_forward(m, 1, n, visit, context);
    return m->acts.final_norm;
}

// ---- the classifier, chunk by chunk of rows, so that the logits of all tokens never exist at once

typedef struct {
    int first, count; // rows
} Chunk;

static Chunk chunk_at(const Llama3 *m, int first) {
    const int left = num_positions(m) - first;
    return (Chunk){first, left < m->classifier.rows ? left : m->classifier.rows};
}

static const floatX *chunk_input(const Llama3 *m, Chunk chunk) {
    return m->acts.final_norm + (size_t)chunk.first * (size_t)m->config.hidden_size;
}

static Matrix head(const Llama3 *m) { return (Matrix){m->table.head, m->table.padded_vocab, m->config.hidden_size}; }

void llama3_make_logits(Llama3 *m, const floatX *x, int rows) { linear(m, m->classifier.logits, x, head(m), rows, 0); }

static void chunk_logits(Llama3 *m, Chunk chunk) { llama3_make_logits(m, chunk_input(m, chunk), chunk.count); }

static void chunk_losses(Llama3 *m, Chunk chunk) {
    cross_entropy_forward(m->classifier.losses + chunk.first, m->classifier.logits, m->batch.targets + chunk.first,
                          chunk.count, m->config.vocab_size, m->table.padded_vocab, m->stream);
}

// Losses; their gradient, which overwrites the logits, each target's times its weight (NULL: 1); from it the norm's.
static void chunk_backward(Llama3 *m, Chunk chunk, const float *weights) {
    const int C = m->config.hidden_size, VP = m->table.padded_vocab;
    const bool body_trained = m->table.lowest <= 2 * m->config.num_hidden_layers;
    floatX *dnorm = body_trained ? m->grads.norm + (size_t)chunk.first * (size_t)C : NULL;
    cross_entropy_backward(m->classifier.losses + chunk.first, m->classifier.logits, m->batch.targets + chunk.first,
                           weights ? weights + chunk.first : NULL, &m->step.scalars->loss_scale, chunk.count,
                           m->config.vocab_size, VP, m->stream);
    GradientPlace dhead = gradient_place(m, m->table.head_bucket);
    if (chunk.first > 0) dhead.add = true;
    linear_backward(m, dnorm, m->classifier.logits, chunk_input(m, chunk), head(m), dhead, chunk.count);
}

// Gradients of the classifier's weights begin and end here; a tied classifier's are complete only with the embedding's.
static void begin_head(Llama3 *m) { grad_bucket_begin(m->zero, m->table.head_bucket); }
static void end_head(Llama3 *m) {
    if (m->table.head_bucket != 0) end_bucket(m, m->table.head_bucket);
}

// ---- loss: cross-entropy of the next token (pretraining, SFT)

// From final_norm to the losses, whose sum is added (+=) to the step's; with_gradient: grads.norm = their gradient, and
// that of the classifier's weights.
static void next_token_loss(Llama3 *m, bool with_gradient) {
    const int N = num_positions(m);
    param_wait(m->zero, m->table.head_bucket);
    trace_begin(LANE_COMPUTE, "classifier", -1, m->stream);
    if (with_gradient) begin_head(m);
    for (int first = 0; first < N; first += m->classifier.rows) {
        const Chunk chunk = chunk_at(m, first);
        chunk_logits(m, chunk);
        if (with_gradient)
            chunk_backward(m, chunk, NULL);
        else
            chunk_losses(m, chunk);
    }
    if (with_gradient) end_head(m);
    sum_losses(&m->step.result->sums[PREFERENCE_LOSS], m->classifier.losses, N, m->stream);
    trace_end(LANE_COMPUTE, m->stream);
}

// ---- loss: preference among answers, by their log-probabilities (DPO, IPO) or by a reward model's scores

static void sum_logprobs(Llama3 *m) {
    const AnswerBatch *a = &m->answers;
    for (int first = 0; first < num_positions(m); first += m->classifier.rows) {
        chunk_logits(m, chunk_at(m, first));
        chunk_losses(m, chunk_at(m, first));
    }
    answer_logprobs(a->seq_logprobs, a->num_targets, m->classifier.losses, m->batch.targets, a->spans, a->counters,
                    max_answers(m), m->stream);
}

static void score_answers(Llama3 *m) {
    const AnswerBatch *a = &m->answers;
    reward_scores(a->seq_logprobs, m->acts.final_norm, m->params + m->table.head, a->spans, a->counters, max_answers(m),
                  m->config.hidden_size, m->stream);
}

void llama3_value_answers(Llama3 *m) {
    param_wait(m->zero, m->table.head_bucket);
    if (m->config.num_labels)
        score_answers(m);
    else
        sum_logprobs(m);
}

// The gradient is that of the targets' cross-entropy with a weight for each answer, known once all log-probabilities are.
static void logprobs_backward(Llama3 *m) {
    const AnswerBatch *a = &m->answers;
    const int N = num_positions(m), rows = m->classifier.rows;
    answer_weights(a->weights, a->dseq, a->spans, a->counters, N, max_answers(m), m->stream);
    for (int first = 0; first < N; first += rows) {
        if (rows < N) chunk_logits(m, chunk_at(m, first)); // with a single chunk they are still there
        chunk_backward(m, chunk_at(m, first), a->weights);
    }
}

static void scores_backward(Llama3 *m) {
    const AnswerBatch *a = &m->answers;
    const size_t head = m->table.head;
    const bool trained = head < m->table.num_trained_elements;
    float *dhead = trained ? bucket_gradient(m->zero, m->table.head_bucket, head) : NULL;
    reward_backward(m->grads.norm, dhead, a->dseq, &m->step.scalars->loss_scale, m->acts.final_norm, m->params + head,
                    a->spans, a->counters, bucket_accumulates(m->zero, m->table.head_bucket), num_positions(m),
                    m->config.hidden_size, max_answers(m), m->stream);
}

static void answers_loss(Llama3 *m, bool with_gradient) {
    const AnswerBatch *a = &m->answers;
    const bool scored = m->config.num_labels;
    trace_begin(LANE_COMPUTE, "preference", -1, m->stream);
    llama3_value_answers(m);
    preference_loss(m->step.result->sums, a->dseq, a->seq_logprobs, scored ? NULL : a->ref_logprobs, a->num_targets,
                    a->groups, a->counters, max_answers(m), &m->shape.preference, m->stream);
    if (with_gradient) {
        begin_head(m);
        if (scored)
            scores_backward(m);
        else
            logprobs_backward(m);
        end_head(m);
    }
    trace_end(LANE_COMPUTE, m->stream);
}

static void add_loss(Llama3 *m, bool with_gradient) {
    if (m->shape.comparisons)
        answers_loss(m, with_gradient);
    else
        next_token_loss(m, with_gradient);
}

void llama3_loss(Llama3 *m) { add_loss(m, true); }

void llama3_forward_loss(Llama3 *m, int i) {
    llama3_forward(m, i);
    add_loss(m, false);
}

// ---- backward

// From grads.norm, the gradient of a norm's output: that of its weight and, in grads.residual, that of its input, to which the
// residual stream's own is added where the stream goes on beside the norm.
static void norm_backward(Llama3 *m, size_t w, const floatX *x, const float *rstd, bool stream_goes_on) {
    Gradients *d = &m->grads;
    const int bucket = m->table.norm_bucket;
    rmsnorm_backward(d->residual, bucket_gradient(m->zero, bucket, w), d->rmsnorm_scratch, d->norm,
                     stream_goes_on ? d->residual : NULL, x, m->params + w, rstd, bucket_accumulates(m->zero, bucket),
                     num_positions(m), m->config.hidden_size, m->stream);
}

// With RECOMPUTE_CHEAP: what a block has not kept, from what it has.
static void recompute_norm(Llama3 *m, floatX *norm, float *rstd, const floatX *x, size_t w) {
    if (m->shape.recompute == RECOMPUTE_CHEAP)
        rmsnorm_forward(norm, rstd, x, m->params + w, num_positions(m), m->config.hidden_size, m->config.rms_norm_eps,
                        m->stream);
}
static void recompute_swiglu(Llama3 *m, const LayerActivations *a) {
    if (m->shape.recompute == RECOMPUTE_CHEAP)
        swiglu_forward(a->swiglu, a->gate_up, num_positions(m), m->config.intermediate_size, m->stream);
}

// The steps of block_forward in reverse. d->residual is the gradient of the block's output before and of its input after.
static void block_backward(Llama3 *m, int l) {
    const LayerActivations *a = &m->acts.layers[l];
    const LayerOffsets *w = &m->table.layers[l];
    const Gradients *d = &m->grads;
    const AttentionShape shape = llama3_attention_shape(m, m->shape.B, m->shape.T);
    const AttentionMask mask = {m->batch.doc_start, m->batch.excluded};
    // 9 to 6: down projection, SwiGLU, gate and up, FFN norm
    recompute_swiglu(m, a);
    project_backward(m, d->swiglu, d->residual, a->swiglu, l, UNIT_DOWN);
    swiglu_backward(a->gate_up, d->swiglu, a->gate_up, num_positions(m), m->config.intermediate_size, m->stream);
    recompute_norm(m, a->norm2, a->rstd2, a->residual2, w->ffn_norm);
    project_backward(m, d->norm, a->gate_up, a->norm2, l, UNIT_GATE_UP);
    norm_backward(m, w->ffn_norm, a->residual2, a->rstd2, true);
    if (m->table.lowest > 2 * l) return; // nothing is trained further down
    // 5 to 1: output projection, attention, rotation, queries, keys and values, attention norm
    project_backward(m, d->attention, d->residual, a->attention, l, UNIT_OUTPUT);
    llama3_attention_backward(m, a, mask, shape);
    rope_backward(d->qkv, m->rope, mask, shape, m->stream);
    recompute_norm(m, a->norm1, a->rstd1, a->residual1, w->attention_norm);
    project_backward(m, d->norm, d->qkv, a->norm1, l, UNIT_QKV);
    norm_backward(m, w->attention_norm, a->residual1, a->rstd1, true);
}

// Added to a tied classifier's, which began the bucket; else rows of tokens that do not occur are zero.
static void embedding_gradient(Llama3 *m) {
    const int C = m->config.hidden_size;
    const size_t bytes = (size_t)m->table.padded_vocab * (size_t)C * sizeof(float);
    const bool tied = m->table.head_bucket == 0;
    if (!tied) grad_bucket_begin(m->zero, 0);
    float *dweight = bucket_gradient(m->zero, 0, m->table.embedding);
    if (!tied && !bucket_accumulates(m->zero, 0)) cuda_check(cudaMemsetAsync(dweight, 0, bytes, m->stream));
    embedding_backward(dweight, m->grads.residual, m->batch.tokens, m->batch.order, num_positions(m), C, m->stream);
    end_bucket(m, 0);
}

// Down to the lowest depth at which something is trained.
void llama3_backward(Llama3 *m) {
    const Activations *acts = &m->acts;
    const int L = m->config.num_hidden_layers, norms = m->table.norm_bucket, lowest = m->table.lowest;
    const size_t input_bytes = (size_t)num_positions(m) * (size_t)m->config.hidden_size * sizeof(floatX);
    grad_bucket_begin(m->zero, norms);
    if (lowest <= 2 * L) norm_backward(m, m->table.final_norm, acts->final_residual, acts->final_rstd, false);
    for (int l = L - 1; l >= 0 && lowest <= 2 * l + 1; l--) {
        trace_begin(LANE_COMPUTE, "backward, layer", l, m->stream);
        grad_bucket_begin(m->zero, layer_bucket(l));
        block_input_wait(&m->acts.inputs, l, m->stream);
        if (m->shape.recompute == RECOMPUTE_BLOCK && l < L - 1) // the last block's activations are still there
            block_forward(m, l, m->shape.B, m->shape.T, true);
        block_backward(m, l);
        block_input_used(&m->acts.inputs, l, input_bytes, m->stream);
        end_bucket(m, layer_bucket(l));
        trace_end(LANE_COMPUTE, m->stream);
    }
    end_bucket(m, norms);
    if (lowest < 0) embedding_gradient(m);
}

// ---- clipping and AdamW

// Sums over the ranks end in the order in which they began: a bucket's squares are summed while later ones are on their way.
static void finish_bucket(Llama3 *m, int bucket) {
    if (grad_bucket_finish(m->zero, bucket)) square_bucket(m, bucket);
}
static void finish_gradients(Llama3 *m) {
    const int norms = m->table.norm_bucket;
    for (int b = norms - 1; b > 0; b--) finish_bucket(m, b);
    finish_bucket(m, norms);
    finish_bucket(m, 0);
    sum_in_order(&m->step.result->square_sum, m->optimizer.square_sums, m->table.num_ranges, m->stream);
}

static void adamw_range(Llama3 *m, int range) {
    const ZeroPiece p = zero_piece(m->zero, range);
    if (p.count) llama3_adamw(m, m->table.ranges[range].bucket, p);
}

static void adamw_bucket(Llama3 *m, int bucket) {
    for (int r = 0; r < m->table.num_ranges; r++)
        if (m->table.ranges[r].bucket == bucket) adamw_range(m, r);
    param_gather(m->zero, bucket);
}

static void upload_scalars(Llama3 *m) {
    const Step *s = &m->step;
    cuda_check(
        cudaMemcpyAsync(s->scalars, s->host_scalars + s->slot, sizeof *s->scalars, cudaMemcpyHostToDevice, m->stream));
}

void llama3_clip_and_adamw(Llama3 *m, const AdamWStep *step, float max_loss) {
    StepScalars *scalars = m->step.scalars;
    StepResult *result = m->step.result;
    const int norms = m->table.norm_bucket;
    StepScalars *host = m->step.host_scalars + m->step.slot;
    host->max_loss = max_loss;
    host->adamw = *step; // loss_scale stays, so that a copy still under way reads the same
    upload_scalars(m);
    trace_begin(LANE_COMPUTE, "gradient norm", -1, m->stream);
    finish_gradients(m);
    trace_end(LANE_COMPUTE, m->stream);
    trace_begin(LANE_COMPUTE, "update", -1, m->stream);
    zero_sum_over_ranks(m->zero, result->sums, PREFERENCE_SUMS, &result->square_sum);
    norm_of_squares(&result->grad_norm, &result->square_sum, m->stream);
    update_gate(&result->apply, &result->sums[PREFERENCE_LOSS], &scalars->loss_scale, &scalars->max_loss,
                &result->grad_norm, m->stream);
    param_wait_all(m->zero); // where no forward pass has waited for the last step's parameters
    adamw_bucket(m, norms);  // in the order in which the forward pass needs them
    for (int b = 0; b < norms; b++) adamw_bucket(m, b);
    llama3_end_optimizer_step(m);
    trace_end(LANE_COMPUTE, m->stream);
}

// ---- a step's beginning and end

void llama3_begin_step(Llama3 *m, int64_t num_targets) {
    m->step.host_scalars[m->step.slot].loss_scale = num_targets > 0 ? 1.0f / (float)num_targets : 0.0f;
    upload_scalars(m);
    cuda_check(cudaMemsetAsync(m->step.result, 0, sizeof *m->step.result, m->stream));
    if (m->zero) {
        zero_begin_step(m->zero);
        llama3_begin_optimizer_step(m);
    }
}

static void send_result(Llama3 *m) {
    const Step *s = &m->step;
    cuda_check(cudaMemcpyAsync(s->host_result, s->result, sizeof *s->result, cudaMemcpyDeviceToHost, m->stream));
}

// Once it has arrived; slot: of its step.
static void read_result(const Step *s, int slot, float *loss, float *grad_norm) {
    *loss = s->host_result->sums[PREFERENCE_LOSS] * s->host_scalars[slot].loss_scale;
    if (grad_norm) *grad_norm = s->host_result->grad_norm;
}

void llama3_result(Llama3 *m, float *loss, float *grad_norm) {
    send_result(m);
    cuda_check(cudaStreamSynchronize(m->stream));
    read_result(&m->step, m->step.slot, loss, grad_norm);
}

void llama3_end_step(Llama3 *m) {
    Step *s = &m->step;
    send_result(m);
    cuda_check(cudaEventRecord(s->ended, m->stream));
    s->slot = !s->slot;
}

void llama3_take_result(Llama3 *m, float *loss, float *grad_norm) {
    cuda_check(cudaEventSynchronize(m->step.ended));
    read_result(&m->step, !m->step.slot, loss, grad_norm);
}

const float *llama3_step_sums(const Llama3 *m) { return m->step.host_result->sums; }

bool llama3_update_applied(const Llama3 *m) { return m->step.host_result->apply != 0; }

// ---- matrix products

static void linear(Llama3 *m, floatX *y, const floatX *x, Matrix w, int N, int most) {
    if (most)
        matmul_same_rows(y, MATMUL_OUT_FLOATX, x, m->params + w.at, N, most, w.OC, w.IC, m->stream);
    else
        matmul(y, MATMUL_OUT_FLOATX, x, m->params + w.at, N, w.OC, w.IC, false, true, false, m->stream);
}

static void linear_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, Matrix w, GradientPlace dw,
                            int N) {
    if (w.at < m->table.num_trained_elements)
        matmul(bucket_gradient(m->zero, dw.bucket, w.at), MATMUL_OUT_FP32, dy, x, w.OC, w.IC, N, true, false, dw.add,
               m->stream);
    if (dx) matmul(dx, MATMUL_OUT_FLOATX, dy, m->params + w.at, N, w.IC, w.OC, false, false, false, m->stream);
}

static Matrix unit_matrix(const Llama3 *m, int layer, LayerUnit unit) {
    const LayerOffsets *at = &m->table.layers[layer];
    const int C = m->config.hidden_size, F = m->config.intermediate_size;
    switch (unit) {
    case UNIT_QKV:
        return (Matrix){at->qkv, llama_config_qkv_width(&m->config), C};
    case UNIT_OUTPUT:
        return (Matrix){at->output, C, m->config.num_attention_heads * m->config.head_dim};
    case UNIT_GATE_UP:
        return (Matrix){at->gate_up, 2 * F, C};
    default:
        return (Matrix){at->down, C, F};
    }
}

// ---- adapters: y += scale * (x A^T) B^T in their columns of a product (kernels/lora.cu has the maths)

static float adapter_scale(const Llama3 *m) { return (float)(m->table.lora_alpha / m->table.lora_rank); }

static Matrix adapter_a(const Llama3 *m, const LoraAdapter *a) { return (Matrix){a->a, m->table.lora_rank, a->in}; }
static Matrix adapter_b(const Llama3 *m, const LoraAdapter *a) { return (Matrix){a->b, a->out, m->table.lora_rank}; }

static void add_adapter(Llama3 *m, const LoraAdapter *a, floatX *y, const floatX *x, int N, int most, int width) {
    const Activations *acts = &m->acts;
    linear(m, acts->lora_low, x, adapter_a(m, a), N, most);
    linear(m, acts->lora_wide, acts->lora_low, adapter_b(m, a), N, most);
    lora_add(y, acts->lora_wide, adapter_scale(m), N, width, a->first, a->out, m->stream);
}

// x A^T is computed again, which costs less than keeping it for each projection.
static void adapter_backward(Llama3 *m, const LoraAdapter *a, GradientPlace dw, floatX *dx, const floatX *dy,
                             const floatX *x, int width) {
    const int N = num_positions(m);
    floatX *low = m->acts.lora_low, *dlow = m->grads.lora_low, *wide = m->acts.lora_wide;
    lora_take(wide, dy, adapter_scale(m), N, width, a->first, a->out, m->stream);
    linear(m, low, x, adapter_a(m, a), N, 0);
    linear_backward(m, dlow, wide, low, adapter_b(m, a), dw, N);
    linear_backward(m, wide, dlow, x, adapter_a(m, a), dw, N);
    lora_add(dx, wide, 1.0f, N, a->in, 0, a->in, m->stream);
}

void llama3_project(Llama3 *m, floatX *y, const floatX *x, int layer, LayerUnit unit, int N, int most) {
    const LayerOffsets *at = &m->table.layers[layer];
    const Matrix w = unit_matrix(m, layer, unit);
    linear(m, y, x, w, N, most);
    for (int i = 0; i < at->num_adapters; i++)
        if (at->adapters[i].unit == unit) add_adapter(m, &at->adapters[i], y, x, N, most, w.OC);
}

static void project_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, int layer, LayerUnit unit) {
    const LayerOffsets *at = &m->table.layers[layer];
    const Matrix w = unit_matrix(m, layer, unit);
    const GradientPlace dw = gradient_place(m, layer_bucket(layer));
    linear_backward(m, dx, dy, x, w, dw, num_positions(m));
    for (int i = 0; i < at->num_adapters; i++)
        if (at->adapters[i].unit == unit) adapter_backward(m, &at->adapters[i], dw, dx, dy, x, w.OC);
}
