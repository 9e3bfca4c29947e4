// What stands between the forward and the backward pass: the classifier and the loss, and the gradient of what they were
// given. Logits exist for one chunk of rows at a time.
#include "kernels/classifier.h"
#include "kernels/grad_norm.h"
#include "model/llama3_internal.h"
#include "target/trace.h"

void llama3_loss(Llama3 *m, bool with_gradient) {
    const int N = llama3_rows(m), C = m->config.hidden_size, V = m->config.vocab_size, VP = m->table.padded_vocab;
    const int head = m->table.head_bucket;
    shards_await(m, head);
    trace_begin(LANE_COMPUTE, "classifier", -1, m->stream);
    if (with_gradient) shards_open(m, head);
    for (int first = 0; first < N; first += m->logits_rows) {
        const int n = N - first < m->logits_rows ? N - first : m->logits_rows;
        const size_t at = (size_t)first * (size_t)C;
        llama3_linear(m, m->logits, m->norm_final + at, m->table.head, n, VP, C);
        if (!with_gradient) {
            cross_entropy_forward(m->losses + first, m->logits, m->targets + first, n, V, VP, m->stream);
            continue;
        }
        cross_entropy_backward(m->losses + first, m->logits, m->targets + first, NULL, &m->scalars->loss_scale, n, V,
                               VP, m->stream);
        llama3_linear_backward(m, m->dnorm + at, m->logits, m->norm_final + at, head, m->table.head, n, VP, C);
    }
    if (with_gradient && head != 0) shards_close(m, head); // a tied one waits for the embedding's gradient
    sum_losses(&m->result->loss_sum, m->losses, N, m->stream);
    trace_end(LANE_COMPUTE, m->stream);
}
