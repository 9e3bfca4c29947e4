// B rows of T tokens, N = B*T; C hidden, F FFN width, V vocabulary, HD width of a head. Every matrix is
// row-major, a linear layer's weight is [outputs, inputs]. In a backward function dx is the gradient of the
// loss by x.
#include "oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- linear layer: y[N,O] = x[N,I] w[O,I]^T

static void linear_forward(double *y, const double *x, const double *w, int N, int O, int I) {
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++) {
            double sum = 0;
            for (int i = 0; i < I; i++) sum += x[(size_t)n * I + i] * w[(size_t)o * I + i];
            y[(size_t)n * O + o] = sum;
        }
}

// dx +=, dw +=
static void linear_backward(double *dx, double *dw, const double *dy, const double *x, const double *w, int N, int O,
                            int I) {
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++) {
            const double d = dy[(size_t)n * O + o];
            for (int i = 0; i < I; i++) {
                dx[(size_t)n * I + i] += d * w[(size_t)o * I + i];
                dw[(size_t)o * I + i] += d * x[(size_t)n * I + i];
            }
        }
}

// ---- token embedding: x[n] = w[tokens[n]]

static void embedding_forward(double *x, const double *w, const int32_t *tokens, int N, int C) {
    for (int n = 0; n < N; n++) // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): plan() has set x
        memcpy(x + (size_t)n * C, w + (size_t)tokens[n] * C, (size_t)C * sizeof *x);
}

static void embedding_backward(double *dw, const double *dx, const int32_t *tokens, int N, int C) {
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++) dw[(size_t)tokens[n] * C + c] += dx[(size_t)n * C + c];
}

// ---- RMSNorm: y = w x r with r = 1 / sqrt(mean(x^2) + eps)

static double reciprocal_rms(const double *x, int C, double eps) {
    double sum = 0;
    for (int c = 0; c < C; c++) sum += x[c] * x[c];
    return 1 / sqrt(sum / C + eps);
}

static void norm_forward(double *y, const double *x, const double *w, int N, int C, double eps) {
    for (int n = 0; n < N; n++, x += C, y += C) {
        const double r = reciprocal_rms(x, C, eps);
        for (int c = 0; c < C; c++) y[c] = w[c] * x[c] * r;
    }
}

// dx +=, dw +=.  dr/dx_c = -r^3 x_c / C, so dx_c = r (w_c dy_c - x_c r^2 sum_j(w_j dy_j x_j) / C)
static void norm_backward(double *dx, double *dw, const double *dy, const double *x, const double *w, int N, int C,
                          double eps) {
    for (int n = 0; n < N; n++, x += C, dx += C, dy += C) {
        const double r = reciprocal_rms(x, C, eps);
        double dot = 0;
        for (int c = 0; c < C; c++) dot += w[c] * dy[c] * x[c];
        for (int c = 0; c < C; c++) {
            dx[c] += r * (w[c] * dy[c] - x[c] * r * r * dot / C);
            dw[c] += dy[c] * x[c] * r;
        }
    }
}

// ---- rotary position embedding: the pair (i, i + HD/2) of every head is turned by position * frequency(i)

// Llama 3.1: wavelengths beyond the old context are stretched by the factor, short ones are kept, those
// between blend.
static double rope_frequency(const LlamaConfig *config, int i) {
    const double f = pow(config->rope_theta, -2.0 * i / config->head_dim);
    if (config->rope_type != ROPE_LLAMA3) return f;
    const double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
    const double turns = config->rope_original_max_position * f / (2 * acos(-1)); // within the old context
    if (turns > high) return f;
    if (turns < low) return f / config->rope_factor;
    const double keep = (turns - low) / (high - low);
    return (1 - keep) * f / config->rope_factor + keep * f;
}

// x [B,T,heads,HD] in place. direction: 1 forward, -1 for the gradient, since a rotation's transpose turns
// back.
static void rope_rotate(double *x, const LlamaConfig *config, const int32_t *doc_start, int B, int T, int heads,
                        int direction) {
    const int half = config->head_dim / 2;
    for (int n = 0; n < B * T; n++)
        for (int i = 0; i < half; i++) {
            const int position = n % T - doc_start[n];
            const double angle = direction * position * rope_frequency(config, i);
            const double cosine = cos(angle), sine = sin(angle);
            for (int h = 0; h < heads; h++) {
                double *pair = x + ((size_t)n * heads + h) * 2 * half + i;
                const double a = pair[0], b = pair[half];
                pair[0] = a * cosine - b * sine;
                pair[half] = b * cosine + a * sine;
            }
        }
}

// ---- grouped-query attention: token i of a row attends to tokens doc_start[i]..i

typedef struct {
    int B, T, heads, kv_heads, width; // heads: of queries; kv_heads: of keys and values; width of each
} AttentionShape;

static size_t query_at(const AttentionShape *s, int b, int t, int h) {
    return (((size_t)b * s->T + t) * s->heads + h) * s->width;
}
static size_t key_at(const AttentionShape *s, int b, int t, int h) {
    const int kv_head = h / (s->heads / s->kv_heads);
    return (((size_t)b * s->T + t) * s->kv_heads + kv_head) * s->width;
}
static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void softmax(double *x, int n) {
    double max = x[0], sum = 0;
    for (int i = 1; i < n; i++) max = fmax(max, x[i]);
    for (int i = 0; i < n; i++) sum += x[i] = exp(x[i] - max);
    for (int i = 0; i < n; i++) x[i] /= sum;
}

// One query: p[j] = softmax over j of q·k[j] / sqrt(width), out = sum of p[j] v[j], j from first to i.
static void attend(double *out, double *p, const double *q, const double *k, const double *v, const AttentionShape *s,
                   int b, int i, int h, int first) {
    const double *query = q + query_at(s, b, i, h);
    double *o = out + query_at(s, b, i, h);
    for (int j = first; j <= i; j++) p[j] = dot(query, k + key_at(s, b, j, h), s->width) / sqrt(s->width);
    softmax(p + first, i - first + 1);
    memset(o, 0, (size_t)s->width * sizeof *o);
    for (int j = first; j <= i; j++)
        for (int c = 0; c < s->width; c++) o[c] += p[j] * v[key_at(s, b, j, h) + c];
}

// out [B,T,heads,width] =, p [B,heads,T,T] = (only where a token attends)
static void attention_forward(double *out, double *p, const double *q, const double *k, const double *v,
                              const int32_t *doc_start, const AttentionShape *s) {
    for (int b = 0; b < s->B; b++)
        for (int h = 0; h < s->heads; h++)
            for (int i = 0; i < s->T; i++, p += s->T) attend(out, p, q, k, v, s, b, i, h, doc_start[b * s->T + i]);
}

// One query. With ds the gradient of a score: dp_j = dout·v_j and ds_j = p_j (dp_j - sum of p dp) = p_j (dp_j
// - dout·out)
static void attend_backward(double *dq, double *dk, double *dv, const double *dout, const double *out, const double *p,
                            const double *q, const double *k, const double *v, const AttentionShape *s, int b, int i,
                            int h, int first) {
    const size_t at = query_at(s, b, i, h);
    const double mean = dot(dout + at, out + at, s->width);
    for (int j = first; j <= i; j++) {
        const size_t to = key_at(s, b, j, h);
        const double ds = p[j] * (dot(dout + at, v + to, s->width) - mean) / sqrt(s->width);
        for (int c = 0; c < s->width; c++) {
            dv[to + c] += p[j] * dout[at + c];
            dq[at + c] += ds * k[to + c];
            dk[to + c] += ds * q[at + c];
        }
    }
}

// dq, dk, dv +=
static void attention_backward(double *dq, double *dk, double *dv, const double *dout, const double *out,
                               const double *p, const double *q, const double *k, const double *v,
                               const int32_t *doc_start, const AttentionShape *s) {
    for (int b = 0; b < s->B; b++)
        for (int h = 0; h < s->heads; h++)
            for (int i = 0; i < s->T; i++, p += s->T)
                attend_backward(dq, dk, dv, dout, out, p, q, k, v, s, b, i, h, doc_start[b * s->T + i]);
}

// ---- SwiGLU: y = silu(gate) up with silu(x) = x / (1 + exp(-x))

static void glu_forward(double *y, const double *gate, const double *up, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}

static void glu_backward(double *dgate, double *dup, const double *dy, const double *gate, const double *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const double sigmoid = 1 / (1 + exp(-gate[i]));
        dup[i] = dy[i] * gate[i] * sigmoid;
        dgate[i] = dy[i] * up[i] * sigmoid * (1 + gate[i] * (1 - sigmoid));
    }
}

// ---- cross-entropy: -log softmax(logits)[target], nothing where the target is -1

// Returns the sum of losses; logits [N,V] become scale times its gradient.
static double cross_entropy(double *logits, const int32_t *targets, int N, int V, double scale) {
    double loss = 0;
    for (int n = 0; n < N; n++, logits += V) {
        if (targets[n] < 0) {
            memset(logits, 0, (size_t)V * sizeof *logits);
            continue;
        }
        softmax(logits, V);
        loss -= log(logits[targets[n]]);
        logits[targets[n]] -= 1;
        for (int v = 0; v < V; v++) logits[v] *= scale;
    }
    return loss;
}

// ---- the model

// Weights or gradients of one block, all by their names in a checkpoint.
typedef struct {
    double *attention_norm, *q, *k, *v, *o, *ffn_norm, *gate, *up, *down;
} Block;

// What a block's forward pass leaves for its backward pass, and, in a second set, the gradients of the same.
typedef struct {
    double *x;               // [N,C] block's input
    double *norm1;           // [N,C]
    double *q, *k, *v;       // [N, heads HD], rotated
    double *attention;       // [N, heads HD]
    double *p;               // [B,heads,T,T]
    double *h;               // [N,C] after attention
    double *norm2;           // [N,C]
    double *gate, *up, *glu; // [N,F]
} Activations;

typedef struct {
    const OracleModel *model;
    const LlamaConfig *config;
    int B, T, N;
    AttentionShape attention;
    const int32_t *tokens, *doc_start;
    Activations *layers; // [num_hidden_layers]
    Activations d;       // gradients, used again in every block; p and x are not used
    double *x, *norm;    // [N,C] after the last block, and its norm
    double *dx, *dnorm;  // [N,C]
    double *logits;      // [N,V]
    double *memory;      // all of the above but layers
    size_t taken;
} Run;

static double *tensor(const Run *run, double *flat, int layer, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return flat + parameter_table_find(run->model->table, full)->offset;
}

static Block block_of(const Run *run, double *flat, int layer) {
    return (Block){
        .attention_norm = tensor(run, flat, layer, "input_layernorm"),
        .q = tensor(run, flat, layer, "self_attn.q_proj"),
        .k = tensor(run, flat, layer, "self_attn.k_proj"),
        .v = tensor(run, flat, layer, "self_attn.v_proj"),
        .o = tensor(run, flat, layer, "self_attn.o_proj"),
        .ffn_norm = tensor(run, flat, layer, "post_attention_layernorm"),
        .gate = tensor(run, flat, layer, "mlp.gate_proj"),
        .up = tensor(run, flat, layer, "mlp.up_proj"),
        .down = tensor(run, flat, layer, "mlp.down_proj"),
    };
}

// The weights are only read: Block serves gradients, too, and so is not const.
static double *weights(const Run *run) { return (double *)run->model->params; }

static size_t queries(const Run *run) { return (size_t)run->attention.heads * run->attention.width; }
static size_t keys(const Run *run) { return (size_t)run->attention.kv_heads * run->attention.width; }

static void add(double *to, const double *from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] += from[i];
}
static void clear(double *x, size_t n) { memset(x, 0, n * sizeof *x); }

// h = x + o(attention(rope(q(norm(x))), rope(k(norm(x))), v(norm(x))))
static void attention_block_forward(Run *run, Activations *a, const Block *w) {
    const LlamaConfig *c = run->config;
    const int B = run->B, T = run->T, N = run->N, C = c->hidden_size;
    norm_forward(a->norm1, a->x, w->attention_norm, N, C, c->rms_norm_eps);
    linear_forward(a->q, a->norm1, w->q, N, (int)queries(run), C);
    linear_forward(a->k, a->norm1, w->k, N, (int)keys(run), C);
    linear_forward(a->v, a->norm1, w->v, N, (int)keys(run), C);
    rope_rotate(a->q, c, run->doc_start, B, T, run->attention.heads, 1);
    rope_rotate(a->k, c, run->doc_start, B, T, run->attention.kv_heads, 1);
    attention_forward(a->attention, a->p, a->q, a->k, a->v, run->doc_start, &run->attention);
    linear_forward(a->h, a->attention, w->o, N, C, (int)queries(run));
    add(a->h, a->x, (size_t)N * C);
}

// dx holds the gradient of h and becomes that of x.
static void attention_block_backward(Run *run, const Activations *a, const Block *w, const Block *dw) {
    const LlamaConfig *c = run->config;
    const int B = run->B, T = run->T, N = run->N, C = c->hidden_size;
    Activations *d = &run->d;
    clear(d->attention, N * queries(run));
    clear(d->q, N * queries(run));
    clear(d->k, N * keys(run));
    clear(d->v, N * keys(run));
    clear(d->norm1, (size_t)N * C);
    linear_backward(d->attention, dw->o, run->dx, a->attention, w->o, N, C, (int)queries(run));
    attention_backward(d->q, d->k, d->v, d->attention, a->attention, a->p, a->q, a->k, a->v, run->doc_start,
                       &run->attention);
    rope_rotate(d->q, c, run->doc_start, B, T, run->attention.heads, -1);
    rope_rotate(d->k, c, run->doc_start, B, T, run->attention.kv_heads, -1);
    linear_backward(d->norm1, dw->q, d->q, a->norm1, w->q, N, (int)queries(run), C);
    linear_backward(d->norm1, dw->k, d->k, a->norm1, w->k, N, (int)keys(run), C);
    linear_backward(d->norm1, dw->v, d->v, a->norm1, w->v, N, (int)keys(run), C);
    norm_backward(run->dx, dw->attention_norm, d->norm1, a->x, w->attention_norm, N, C, c->rms_norm_eps);
}

// out = h + down(silu(gate(norm(h))) up(norm(h)))
static void ffn_block_forward(Run *run, double *out, Activations *a, const Block *w) {
    const int N = run->N, C = run->config->hidden_size, F = run->config->intermediate_size;
    norm_forward(a->norm2, a->h, w->ffn_norm, N, C, run->config->rms_norm_eps);
    linear_forward(a->gate, a->norm2, w->gate, N, F, C);
    linear_forward(a->up, a->norm2, w->up, N, F, C);
    glu_forward(a->glu, a->gate, a->up, (size_t)N * F);
    linear_forward(out, a->glu, w->down, N, C, F);
    add(out, a->h, (size_t)N * C);
}

// dx holds the gradient of out and becomes that of h.
static void ffn_block_backward(Run *run, const Activations *a, const Block *w, const Block *dw) {
    const int N = run->N, C = run->config->hidden_size, F = run->config->intermediate_size;
    Activations *d = &run->d;
    clear(d->glu, (size_t)N * F);
    clear(d->norm2, (size_t)N * C);
    linear_backward(d->glu, dw->down, run->dx, a->glu, w->down, N, C, F);
    glu_backward(d->gate, d->up, d->glu, a->gate, a->up, (size_t)N * F);
    linear_backward(d->norm2, dw->gate, d->gate, a->norm2, w->gate, N, F, C);
    linear_backward(d->norm2, dw->up, d->up, a->norm2, w->up, N, F, C);
    norm_backward(run->dx, dw->ffn_norm, d->norm2, a->h, w->ffn_norm, N, C, run->config->rms_norm_eps);
}

static void forward(Run *run) {
    const ParameterTable *table = run->model->table;
    const int N = run->N, C = run->config->hidden_size, L = run->config->num_hidden_layers;
    double *w = weights(run);
    embedding_forward(run->layers[0].x, w + table->embedding, run->tokens, N, C);
    for (int l = 0; l < L; l++) {
        const Block block = block_of(run, w, l);
        attention_block_forward(run, &run->layers[l], &block);
        ffn_block_forward(run, l + 1 < L ? run->layers[l + 1].x : run->x, &run->layers[l], &block);
    }
    norm_forward(run->norm, run->x, w + table->final_norm, N, C, run->config->rms_norm_eps);
    linear_forward(run->logits, run->norm, w + table->head, N, run->config->vocab_size, C);
}

// logits hold their gradient. With tied embeddings head and embedding are one tensor, which both add to.
static void backward(Run *run, double *grads) {
    const ParameterTable *table = run->model->table;
    const int N = run->N, C = run->config->hidden_size;
    double *w = weights(run);
    clear(run->dnorm, (size_t)N * C);
    clear(run->dx, (size_t)N * C);
    linear_backward(run->dnorm, grads + table->head, run->logits, run->norm, w + table->head, N,
                    run->config->vocab_size, C);
    norm_backward(run->dx, grads + table->final_norm, run->dnorm, run->x, w + table->final_norm, N, C,
                  run->config->rms_norm_eps);
    for (int l = run->config->num_hidden_layers - 1; l >= 0; l--) {
        const Block block = block_of(run, w, l), dblock = block_of(run, grads, l);
        ffn_block_backward(run, &run->layers[l], &block, &dblock);
        attention_block_backward(run, &run->layers[l], &block, &dblock);
    }
    embedding_backward(grads + table->embedding, run->dx, run->tokens, N, C);
}

// ---- memory of a run: planned by a first pass over what it needs, placed by a second

static double *take(Run *run, size_t count) {
    double *at = run->memory ? run->memory + run->taken : NULL;
    run->taken += count;
    return at;
}

static void plan_layer(Run *run, Activations *a) {
    const size_t N = (size_t)run->N, C = (size_t)run->config->hidden_size, F = (size_t)run->config->intermediate_size;
    a->x = take(run, N * C);
    a->norm1 = take(run, N * C);
    a->q = take(run, N * queries(run));
    a->k = take(run, N * keys(run));
    a->v = take(run, N * keys(run));
    a->attention = take(run, N * queries(run));
    a->p = take(run, N * (size_t)run->attention.heads * (size_t)run->T);
    a->h = take(run, N * C);
    a->norm2 = take(run, N * C);
    a->gate = take(run, N * F);
    a->up = take(run, N * F);
    a->glu = take(run, N * F);
}

static void plan(Run *run) {
    const size_t NC = (size_t)run->N * (size_t)run->config->hidden_size;
    run->taken = 0;
    for (int l = 0; l < run->config->num_hidden_layers; l++) plan_layer(run, &run->layers[l]);
    plan_layer(run, &run->d);
    run->x = take(run, NC);
    run->norm = take(run, NC);
    run->dx = take(run, NC);
    run->dnorm = take(run, NC);
    run->logits = take(run, (size_t)run->N * (size_t)run->config->vocab_size);
}

static void end(Run *run) {
    free(run->layers);
    free(run->memory);
}

static int begin(Run *run, const OracleModel *model, const int32_t *tokens, const int32_t *doc_start, int B, int T,
                 Error *err) {
    const LlamaConfig *c = model->config;
    *run = (Run){.model = model, .config = c, .B = B, .T = T, .N = B * T, .tokens = tokens, .doc_start = doc_start};
    run->attention = (AttentionShape){B, T, c->num_attention_heads, c->num_key_value_heads, c->head_dim};
    run->layers = calloc((size_t)c->num_hidden_layers, sizeof *run->layers);
    if (run->layers) plan(run);
    run->memory = run->layers ? calloc(run->taken, sizeof *run->memory) : NULL;
    if (!run->memory) {
        end(run);
        return fail_fault(err, "no memory for the oracle of %d x %d tokens", B, T);
    }
    plan(run);
    return 0;
}

int oracle_forward_backward(const OracleModel *model, const Batch *batch, int B, int T, int64_t num_targets,
                               double *loss, double *grads, Error *err) {
    Run run;
    const int failed = begin(&run, model, batch->tokens, batch->doc_start, B, T, err);
    if (failed) return failed;
    const double scale = num_targets > 0 ? 1 / (double)num_targets : 0;
    forward(&run);
    *loss += scale * cross_entropy(run.logits, batch->targets, run.N, model->config->vocab_size, scale);
    backward(&run, grads);
    end(&run);
    return 0;
}

int oracle_logits(const OracleModel *model, const int32_t *tokens, int T, double *logits, Error *err) {
    int32_t *doc_start = calloc((size_t)T, sizeof *doc_start);
    if (!doc_start) return fail_fault(err, "no memory for the oracle of %d tokens", T);
    Run run;
    const int failed = begin(&run, model, tokens, doc_start, 1, T, err);
    if (!failed) {
        forward(&run);
        memcpy(logits, run.logits, (size_t)T * (size_t)model->config->vocab_size * sizeof *logits);
        end(&run);
    }
    free(doc_start);
    return failed;
}

// ---- update

double oracle_norm(const ParameterTable *table, const double *grads) {
    double sum = 0;
    for (size_t i = 0; i < table->num_elements; i++) sum += grads[i] * grads[i];
    return sqrt(sum);
}

void oracle_adamw(const ParameterTable *table, double *params, double *m, double *v, const double *grads,
                     const AdamWStep *step) {
    const double norm = oracle_norm(table, grads), max = step->max_grad_norm;
    const double clip = max > 0 ? fmin(1, max / (norm + 1e-6)) : 1;
    for (size_t i = 0; i < table->num_elements; i++) {
        const double g = clip * grads[i];
        m[i] = step->beta1 * m[i] + (1 - (double)step->beta1) * g;
        v[i] = step->beta2 * v[i] + (1 - (double)step->beta2) * g * g;
        const double decay = i < table->num_decayed ? step->weight_decay : 0;
        const double direction = m[i] / step->bias_correction1 / (sqrt(v[i] / step->bias_correction2) + step->eps);
        params[i] -= (double)step->learning_rate * (direction + decay * params[i]);
    }
}
