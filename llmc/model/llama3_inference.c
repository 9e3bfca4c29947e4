#include "model/llama3_inference.h"

#include <string.h>

#include "kernels/classifier.h"
#include "kernels/embedding.h"
#include "model/llama3_state.h"

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
    const floatX *norm = llama3_forward_text(m, tokens, n, NULL, NULL);
    param_wait(m->zero, m->table.head_bucket);
    llama3_make_logits(m, norm + (size_t)(n - 1) * (size_t)m->config.hidden_size, 1);
    llama3_download(m, m->host.logits, m->classifier.logits, (size_t)m->table.padded_vocab * sizeof(floatX));
    for (int i = 0; i < m->config.vocab_size; i++) logits[i] = widen(m->host.logits[i]);
}

// Of the row-th of the rows of logits.
static int32_t likeliest_token(Llama3 *m, int row) {
    const size_t width = (size_t)m->table.padded_vocab;
    const floatX *logits = m->host.logits;
    int32_t best = 0;
    llama3_download(m, m->host.logits, m->classifier.logits + (size_t)row * width, width * sizeof(floatX));
    for (int32_t i = 1; i < m->config.vocab_size; i++)
        if (widen(logits[i]) > widen(logits[best])) best = i;
    return best;
}

// Of at most classifier.rows targets. Only their positions' rows of final_norm become logits.
static void losses_after(Llama3 *m, const int32_t *positions, const int32_t *targets, int n, float *losses,
                         int32_t *likeliest) {
    floatX *rows = m->acts.branch_out;
    llama3_upload_targets(m, positions, targets, n);
    embedding_forward(rows, m->batch.order, m->acts.final_norm, n, m->config.hidden_size, m->stream);
    llama3_make_logits(m, rows, n);
    cross_entropy_forward(m->classifier.losses, m->classifier.logits, m->batch.targets, n, m->config.vocab_size,
                          m->table.padded_vocab, m->stream);
    llama3_download(m, losses, m->classifier.losses, (size_t)n * sizeof *losses);
    for (int k = 0; likeliest && k < n; k++) likeliest[k] = likeliest_token(m, k);
}

void llama3_token_losses(Llama3 *m, int rows, const int32_t *positions, const int32_t *targets, int n, float *losses,
                         int32_t *likeliest) {
    const int most = m->classifier.rows;
    llama3_upload_rows(m, rows, m->shape.T);
    llama3_run_forward(m, rows, m->shape.T, NULL, NULL);
    param_wait(m->zero, m->table.head_bucket);
    for (int i = 0; i < n; i += most)
        losses_after(m, positions + i, targets + i, n - i < most ? n - i : most, losses + i,
                     likeliest ? likeliest + i : NULL);
}

static void download_values(Llama3 *m, int i, float *values) {
    llama3_value_answers(m);
    llama3_download(m, values, m->answers.seq_logprobs, (size_t)llama3_batch(m, i)->num_answers * sizeof *values);
}

void llama3_answer_values(Llama3 *m, int i, float *values) {
    llama3_upload_batch(m, i);
    llama3_run_forward(m, m->shape.B, m->shape.T, NULL, NULL);
    download_values(m, i, values);
}

void llama3_scores(Llama3 *m, int rows, int length, float *scores) {
    llama3_upload_rows(m, rows, length);
    llama3_upload_answers(m, 0);
    llama3_run_forward(m, rows, length, NULL, NULL);
    download_values(m, 0, scores);
}
