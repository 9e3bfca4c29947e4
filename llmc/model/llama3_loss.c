// What stands between the forward and the backward pass: the classifier and the loss, and the gradient of what they were
// given. Logits exist for one chunk of rows at a time.
//
// Three losses: cross-entropy of the targets; preference among answers by their log-probabilities (DPO, IPO), whose
// gradient is that of the targets' cross-entropy with a weight for each answer, known only once all of them are; preference
// by a reward model's scores.
#include "kernels/classifier.h"
#include "kernels/grad_norm.h"
#include "kernels/reward_head.h"
#include "model/llama3_internal.h"
#include "device/trace.h"

int llama3_answers_at_most(const Llama3 *m) { return llama3_rows(m) / 2; }

// ---- the classifier, chunk by chunk

typedef struct {
    int first, count; // rows
} Chunk;

static Chunk chunk_at(const Llama3 *m, int first) {
    const int left = llama3_rows(m) - first;
    return (Chunk){first, left < m->logits_rows ? left : m->logits_rows};
}

static const floatX *chunk_input(const Llama3 *m, Chunk chunk) {
    return m->norm_final + (size_t)chunk.first * (size_t)m->config.hidden_size;
}

static void make_logits(Llama3 *m, Chunk chunk) {
    llama3_linear(m, m->logits, chunk_input(m, chunk), m->table.head, chunk.count, m->table.padded_vocab,
                  m->config.hidden_size);
}

static void chunk_losses(Llama3 *m, Chunk chunk) {
    cross_entropy_forward(m->losses + chunk.first, m->logits, m->targets + chunk.first, chunk.count,
                          m->config.vocab_size, m->table.padded_vocab, m->stream);
}

// Losses, and over the logits their gradient, each target's times its weight (NULL: 1); from there dnorm.
static void chunk_backward(Llama3 *m, Chunk chunk, const float *weights) {
    const int C = m->config.hidden_size, VP = m->table.padded_vocab, head = m->table.head_bucket;
    const bool body_trained = m->table.lowest <= 2 * m->config.num_hidden_layers;
    cross_entropy_backward(m->losses + chunk.first, m->logits, m->targets + chunk.first,
                           weights ? weights + chunk.first : NULL, &m->scalars->loss_scale, chunk.count,
                           m->config.vocab_size, VP, m->stream);
    llama3_linear_backward(m, body_trained ? m->dnorm + (size_t)chunk.first * (size_t)C : NULL, m->logits,
                           chunk_input(m, chunk), head, m->table.head, chunk.count, VP, C);
}

// Gradients of the classifier's weights begin and end; those of a tied one wait for the embedding's.
static void open_head(Llama3 *m) { shards_open(m, m->table.head_bucket); }
static void close_head(Llama3 *m) {
    if (m->table.head_bucket != 0) shards_close(m, m->table.head_bucket);
}

// ---- cross-entropy

void llama3_token_loss(Llama3 *m, bool with_gradient) {
    const int N = llama3_rows(m);
    shards_await(m, m->table.head_bucket);
    trace_begin(LANE_COMPUTE, "classifier", -1, m->stream);
    if (with_gradient) open_head(m);
    for (int first = 0; first < N; first += m->logits_rows) {
        const Chunk chunk = chunk_at(m, first);
        make_logits(m, chunk);
        if (with_gradient)
            chunk_backward(m, chunk, NULL);
        else
            chunk_losses(m, chunk);
    }
    if (with_gradient) close_head(m);
    sum_losses(&m->result->sums[PREFERENCE_LOSS], m->losses, N, m->stream);
    trace_end(LANE_COMPUTE, m->stream);
}

// ---- answers

static void sum_log_probabilities(Llama3 *m) {
    const Comparisons *c = &m->comparisons;
    for (int first = 0; first < llama3_rows(m); first += m->logits_rows) {
        make_logits(m, chunk_at(m, first));
        chunk_losses(m, chunk_at(m, first));
    }
    answer_logprobs(c->values, c->targets, m->losses, m->targets, c->spans, c->counters, llama3_answers_at_most(m),
                    m->stream);
}

static void score_answers(Llama3 *m) {
    const Comparisons *c = &m->comparisons;
    reward_scores(c->values, m->norm_final, m->params + m->table.head, c->spans, c->counters, llama3_answers_at_most(m),
                  m->config.hidden_size, m->stream);
}

void llama3_value_answers(Llama3 *m) {
    shards_await(m, m->table.head_bucket);
    if (m->config.num_labels)
        score_answers(m);
    else
        sum_log_probabilities(m);
}

static void compare_answers(Llama3 *m) {
    const Comparisons *c = &m->comparisons;
    const float *reference = m->config.num_labels ? NULL : c->reference;
    preference_loss(m->result->sums, c->danswers, c->values, reference, c->targets, c->groups, c->counters,
                    llama3_answers_at_most(m), &m->shape.preference, m->stream);
}

static void log_probabilities_backward(Llama3 *m) {
    const Comparisons *c = &m->comparisons;
    const int N = llama3_rows(m);
    answer_weights(c->weights, c->danswers, c->spans, c->counters, N, llama3_answers_at_most(m), m->stream);
    for (int first = 0; first < N; first += m->logits_rows) {
        if (m->logits_rows < N) make_logits(m, chunk_at(m, first)); // of a single chunk they are still there
        chunk_backward(m, chunk_at(m, first), c->weights);
    }
}

static void scores_backward(Llama3 *m) {
    const Comparisons *c = &m->comparisons;
    const size_t head = m->table.head;
    const bool trained = head < m->table.num_trained_elements;
    float *gradient = trained ? shards_gradient(m, m->table.head_bucket, head) : NULL;
    reward_backward(m->dnorm, gradient, c->danswers, &m->scalars->loss_scale, m->norm_final, m->params + head, c->spans,
                    c->counters, llama3_rows(m), m->config.hidden_size, llama3_answers_at_most(m), m->stream);
}

static void preference(Llama3 *m, bool with_gradient) {
    trace_begin(LANE_COMPUTE, "preference", -1, m->stream);
    llama3_value_answers(m);
    compare_answers(m);
    if (with_gradient) {
        open_head(m);
        if (m->config.num_labels)
            scores_backward(m);
        else
            log_probabilities_backward(m);
        close_head(m);
    }
    trace_end(LANE_COMPUTE, m->stream);
}

void llama3_make_loss(Llama3 *m, bool with_gradient) {
    if (m->shape.comparisons)
        preference(m, with_gradient);
    else
        llama3_token_loss(m, with_gradient);
}
