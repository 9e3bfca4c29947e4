#include "model/llama3_inference.h"

#include <string.h>

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

void llama3_token_losses(Llama3 *m, int i, bool forward, float *losses) {
    if (forward) {
        llama3_upload_tokens(m, i);
        llama3_run_forward(m, m->shape.B, m->shape.T, NULL, NULL);
    } else {
        llama3_upload_targets(m, i);
    }
    llama3_next_token_loss(m, false);
    llama3_download(m, losses, m->classifier.losses, (size_t)num_positions(m) * sizeof *losses);
}

static void download_values(Llama3 *m, int i, float *values) {
    llama3_value_answers(m);
    llama3_download(m, values, m->answers.seq_logprobs, (size_t)m->host.batches[i].num_answers * sizeof *values);
}

void llama3_answer_values(Llama3 *m, int i, float *values) {
    llama3_upload_batch(m, i);
    llama3_run_forward(m, m->shape.B, m->shape.T, NULL, NULL);
    download_values(m, i, values);
}

void llama3_scores(Llama3 *m, int rows, int length, float *scores) {
    llama3_upload_rows(m, rows, length);
    llama3_run_forward(m, rows, length, NULL, NULL);
    download_values(m, 0, scores);
}
