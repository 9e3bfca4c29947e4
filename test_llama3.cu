// The whole model against an oracle in plain C and double precision (dev/reference), on either target,
// with nothing but this repository: fresh weights and tokens from a printed seed, the loss, every parameter's
// gradient, 20 steps of AdamW, and what must not change a result. Prints one line a check; exit code 1 if any
// fails.
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/version.h"
#include "dev/reference/oracle.h"
#include "device/device.h"
#include "model/llama3.h"
#include "model/llama3_inference.h"
#include "model/llama3_weights.h"

// ---- report

static int passed, failed;

static void verdict(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void verdict(bool good, const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("%s  ", good ? "ok  " : "FAIL");
    vprintf(format, args);
    putchar('\n');
    fflush(stdout);
    va_end(args);
    if (good)
        passed++;
    else
        failed++;
}

static void stop(const char *what) {
    fprintf(stderr, "test_llama3: %s\n", what);
    exit(1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) stop("no memory");
    return memory;
}

// ---- random numbers (splitmix64) and floatX

typedef struct {
    uint64_t state;
} Random;

static uint64_t random_bits(Random *r) {
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static double random_unit(Random *r) { return (double)(random_bits(r) >> 11) * 0x1p-53; } // [0, 1)
static int random_below(Random *r, int n) { return (int)(random_unit(r) * n); }
static double random_normal(Random *r) {
    return sqrt(-2 * log(1 - random_unit(r))) * cos(2 * acos(-1) * random_unit(r));
}

#ifdef LLMC_PRECISION_fp32
static const bool BF16 = false;
static floatX narrow(float x) { return x; }
static float widen(floatX x) { return x; }
#else
static const bool BF16 = true;
static floatX narrow(float x) { // round to nearest even; x is finite
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (floatX)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
static float widen(floatX x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#endif

// ---- cases

typedef struct {
    const char *name;
    int V, C, F, L, NH, NKV, HD;
    bool tied, llama3_rope;
    int B, T;
    bool small; // also in --small
} Case;

// Widths are tiny so that the oracle is quick. NH*HD need not be C.
static const Case cases[] = {
    {"4 heads over 2", 300, 64, 112, 2, 4, 2, 16, false, false, 2, 37, true},
    {"9 heads over 3, tied", 193, 144, 80, 2, 9, 3, 16, true, false, 2, 33, false},
    {"llama3 rope", 128, 64, 96, 3, 4, 1, 32, false, true, 2, 65, false},
    {"head_dim 64, tied", 257, 32, 48, 2, 2, 2, 64, true, true, 1, 131, true},
    {"head_dim 128", 130, 48, 64, 2, 2, 1, 128, false, false, 2, 71, true},
    {"head_dim 48", 131, 96, 64, 1, 3, 1, 48, false, false, 3, 19, false},
    {"vocabulary 50257", 50257, 32, 48, 1, 2, 1, 16, true, false, 1, 21, false},
    {"one token", 129, 32, 48, 2, 2, 1, 16, false, false, 1, 1, true},
};
enum { CASES = sizeof cases / sizeof *cases };

static LlamaConfig config_of(const Case *c) {
    LlamaConfig config = {
        .vocab_size = c->V,
        .hidden_size = c->C,
        .intermediate_size = c->F,
        .num_hidden_layers = c->L,
        .num_attention_heads = c->NH,
        .num_key_value_heads = c->NKV,
        .head_dim = c->HD,
        .max_position_embeddings = 1024,
        .rms_norm_eps = 1e-5f,
        .rope_theta = 10000,
        .initializer_range = 0.02,
        .tie_word_embeddings = c->tied,
        .bos_token_id = -1,
        .eos_token_id = -1,
    };
    if (c->llama3_rope) { // an old context so short that all three ranges of wavelengths occur
        config.rope_type = ROPE_LLAMA3;
        config.rope_factor = 8;
        config.rope_low_freq_factor = 1;
        config.rope_high_freq_factor = 4;
        config.rope_original_max_position = 64;
    }
    return config;
}

// ---- batches

static const int32_t *sort_tokens;
static int by_token(const void *a, const void *b) {
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sort_tokens[i] != sort_tokens[j]) return sort_tokens[i] < sort_tokens[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

static void finish_batch(Batch *batch, int N) {
    batch->num_targets = 0;
    for (int i = 0; i < N; i++) {
        batch->order[i] = i;
        batch->num_targets += batch->targets[i] >= 0;
    }
    sort_tokens = batch->tokens;
    qsort(batch->order, (size_t)N, sizeof *batch->order, by_token);
}

// With documents: about every sixth token begins one, documents of one token occur, and as the loader has it,
// a document's last token has no target; a few more are ignored. A fifth of the tokens are one and the same.
static void fill_batch(Batch *batch, const Case *c, bool documents, Random *r) {
    const int N = c->B * c->T;
    for (int i = 0; i < N; i++) {
        const int t = i % c->T;
        batch->tokens[i] = random_unit(r) < 0.2 ? 1 : random_below(r, c->V);
        batch->targets[i] = random_below(r, c->V);
        batch->doc_start[i] = t == 0 ? 0 : batch->doc_start[i - 1];
        if (!documents) continue;
        if (random_unit(r) < 0.1) batch->targets[i] = -1;
        if (t == 0 || random_unit(r) >= 0.17) continue;
        batch->doc_start[i] = t;
        batch->targets[i - 1] = -1;
    }
    finish_batch(batch, N);
}

// ---- a model on the device beside the oracle's copy of it

typedef struct {
    LlamaConfig config;
    Llama3 *model;
    const ParameterTable *table;
    double *params, *grads; // the oracle's
    double loss;
} Pair;

static Llama3 *create(const LlamaConfig *config, int B, int T, int micro_batches, Recompute recompute) {
    const RunShape shape = {.B = B, .T = T, .micro_batches = micro_batches, .training = true, .recompute = recompute};
    Llama3 *model;
    Error err = {0};
    if (llama3_create(&model, config, &shape, &err)) stop(err.message);
    return model;
}

static size_t size_of(const ParameterTensor *t) { return (size_t)t->rows * (size_t)t->cols; }

// Weights larger than at initialisation and norms away from 1, so that every path has weight in the gradient.
static void set_weights(Llama3 *model, double *params, Random *r) {
    const ParameterTable *table = llama3_parameters(model);
    for (int i = 0; i < table->count; i++) {
        const ParameterTensor *t = &table->tensors[i];
        floatX *values = allocate(size_of(t), sizeof *values);
        for (size_t e = 0; e < size_of(t); e++) {
            const double z = random_normal(r);
            values[e] = narrow((float)(t->dims == 1 ? 1 + 0.2 * z : z / sqrt(t->cols)));
            params[t->offset + e] = widen(values[e]);
        }
        llama3_set_parameter(model, i, values);
        free(values);
    }
}

static Pair pair_create(const Case *c, int micro_batches, Recompute recompute, Random *r) {
    Pair p = {.config = config_of(c)};
    p.model = create(&p.config, c->B, c->T, micro_batches, recompute);
    p.table = llama3_parameters(p.model);
    p.params = allocate(p.table->num_elements, sizeof *p.params);
    p.grads = allocate(p.table->num_elements, sizeof *p.grads);
    set_weights(p.model, p.params, r);
    return p;
}

static void pair_destroy(Pair *p) {
    llama3_destroy(p->model);
    free(p->params);
    free(p->grads);
}

static OracleModel oracle_of(const Pair *p) { return (OracleModel){&p->config, p->table, p->params}; }

static int64_t count_targets(Llama3 *model, int micro_batches) {
    int64_t targets = 0;
    for (int i = 0; i < micro_batches; i++) targets += llama3_batch(model, i)->num_targets;
    return targets;
}

static void run_model(Llama3 *model, int micro_batches) {
    llama3_begin_step(model, count_targets(model, micro_batches));
    for (int i = 0; i < micro_batches; i++) {
        llama3_forward(model, i);
        llama3_loss(model);
        llama3_backward(model);
    }
}

static void run_oracle(Pair *p, int B, int T, int micro_batches) {
    const OracleModel oracle = oracle_of(p);
    const int64_t targets = count_targets(p->model, micro_batches);
    Error err = {0};
    p->loss = 0;
    memset(p->grads, 0, p->table->num_elements * sizeof *p->grads);
    for (int i = 0; i < micro_batches; i++)
        if (oracle_forward_backward(&oracle, llama3_batch(p->model, i), B, T, targets, &p->loss, p->grads, &err))
            stop(err.message);
}

// ---- errors and their limits

// Relative L2 error in the fp32 build: the rule that every kernel keeps.
static const double FP32_LIMIT = 1e-5;

// Relative L2 errors in the bf16 build: 1.5 times the largest that PyTorch's bf16 LlamaForCausalLM had on
// these very cases against float64, over 12 seeds of weights and tokens (measured by
// dev/bench/bf16_error.py). The tests that run PyTorch beside the kernels judge by the same inputs; this
// program has to do without it.
static const double BF16_LOSS_LIMIT = 1.5 * 3.9e-3, BF16_LOGITS_LIMIT = 1.5 * 3.0e-2;
static const struct {
    const char *part; // of the tensor's name; the first that fits counts
    double pytorch;
} bf16_errors[] = {
    {"lm_head", 1.3e-2}, {"model.norm", 1.2e-2}, {"layernorm", 3.0e-2},    {"q_proj", 2.9e-2},
    {"k_proj", 2.9e-2},  {"v_proj", 2.3e-2},     {"o_proj", 2.2e-2},       {"gate_proj", 2.3e-2},
    {"up_proj", 2.3e-2}, {"down_proj", 2.1e-2},  {"embed_tokens", 2.5e-2},
};

// Along 20 steps losses and norms differ more in bf16: parameters are rounded to 8 bits after each update,
// which the oracle's are not. 3e-2 is the most that was seen (12 seeds). So this finds a broken update; the
// fp32 build finds a wrong decay, too.
static double curve_limit(void) { return BF16 ? 6e-2 : FP32_LIMIT; }

static double loss_limit(void) { return BF16 ? BF16_LOSS_LIMIT : FP32_LIMIT; }
static double gradient_limit(const char *name) {
    if (!BF16) return FP32_LIMIT;
    for (size_t i = 0; i < sizeof bf16_errors / sizeof *bf16_errors; i++)
        if (strstr(name, bf16_errors[i].part)) return 1.5 * bf16_errors[i].pytorch;
    return 0; // a tensor that the table does not know fails
}

static double relative(double value, double expected) { return fabs(value - expected) / fmax(fabs(expected), 1e-30); }

typedef struct {
    double error, limit;
    const char *name;
} Worst; // the tensor whose error is the largest share of its limit

// A gradient that vanishes (of queries and keys where each token sees only itself) is measured by the whole
// gradient's norm.
static double tensor_error(const float *ours, const double *expected, size_t n, double whole) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (ours[i] - expected[i]) * (ours[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    const double scale = sqrt(norm) > 1e-8 * whole ? sqrt(norm) : whole;
    const double error = sqrt(difference) / fmax(scale, 1e-30);
    return isnan(error) ? INFINITY : error;
}

// The same errors over several draws of weights and tokens, as sums of squares. What few roundings decide (of one token,
// of one steep softmax) is luck in a single draw; so where a case is not clearly within its limits it is drawn again, and
// the limits are asked of the root mean squares of all draws: what is wrong in each is found, and what is grossly wrong in one.
enum { DRAWS = 10, TENSORS = 64 };
static const double CLEARLY = 0.8; // of the limit: one draw is enough
typedef struct {
    int draws;
    double loss, gradients[TENSORS];
} Errors;

static double root_mean_square(double sum, int draws) { return sqrt(sum / draws); }

static Worst worst_gradient(const ParameterTable *table, const Errors *errors) {
    Worst worst = {-1, 1, ""};
    for (int i = 0; i < table->count; i++) {
        const ParameterTensor *t = &table->tensors[i];
        const double error = root_mean_square(errors->gradients[i], errors->draws), limit = gradient_limit(t->name);
        if (getenv("LLMC_TEST_ERRORS")) printf("    %-50s %.3e of %.1e\n", t->name, error, limit);
        if (error / limit > worst.error / worst.limit) worst = (Worst){error, limit, t->name};
    }
    return worst;
}

static void add_errors(Errors *errors, const Pair *p, Llama3 *model) {
    const double whole = oracle_norm(p->table, p->grads);
    float loss;
    llama3_result(model, &loss, NULL);
    if (p->table->count > TENSORS) stop("more tensors than TENSORS");
    errors->draws++;
    errors->loss += pow(relative(loss, p->loss), 2);
    for (int i = 0; i < p->table->count; i++) {
        const ParameterTensor *t = &p->table->tensors[i];
        float *ours = allocate(size_of(t), sizeof *ours);
        llama3_get_gradient(model, i, ours);
        errors->gradients[i] += pow(tensor_error(ours, p->grads + t->offset, size_of(t), whole), 2);
        free(ours);
    }
}

static bool need_draw(const Pair *p, const Errors *errors) {
    const Worst worst = worst_gradient(p->table, errors);
    const double loss = root_mean_square(errors->loss, errors->draws);
    return errors->draws < DRAWS && (loss > CLEARLY * loss_limit() || worst.error > CLEARLY * worst.limit);
}

static void judge(const char *check, const Case *c, const Pair *p, const Errors *errors) {
    const double loss_error = root_mean_square(errors->loss, errors->draws);
    const Worst worst = worst_gradient(p->table, errors);
    verdict(loss_error <= loss_limit() && worst.error <= worst.limit,
            "%s, %s: loss %.4f, error %.1e of %.1e; worst gradient %.1e of %.1e, %s; %d draw%s", c->name, check,
            p->loss, loss_error, loss_limit(), worst.error, worst.limit, worst.name, errors->draws,
            errors->draws > 1 ? "s" : "");
}

// ---- checks. Each has its own random numbers, so that it does not matter which others run.

static Random random_for(uint64_t seed, uint64_t check) {
    return (Random){seed * 0x100000001B3u + check * 0x51ED2701u};
}

// Bytes of all parameters, or of all gradients.
static unsigned char *snapshot(Llama3 *model, bool gradients, size_t *bytes) {
    const ParameterTable *table = llama3_parameters(model);
    const size_t element = gradients ? sizeof(float) : sizeof(floatX);
    unsigned char *all = allocate(table->num_elements, element);
    *bytes = table->num_elements * element;
    for (int i = 0; i < table->count; i++) {
        unsigned char *at = all + table->tensors[i].offset * element;
        if (gradients)
            llama3_get_gradient(model, i, (float *)(void *)at);
        else
            llama3_get_parameter(model, i, (floatX *)(void *)at);
    }
    return all;
}

static bool same_bits(Llama3 *a, Llama3 *b, bool gradients) {
    size_t bytes;
    unsigned char *in_a = snapshot(a, gradients, &bytes), *in_b = snapshot(b, gradients, &bytes);
    const bool same = memcmp(in_a, in_b, bytes) == 0;
    free(in_a);
    free(in_b);
    return same;
}

static void copy_batch(Batch *to, const Batch *from, int first, int N) {
    memcpy(to->tokens, from->tokens + first, (size_t)N * sizeof *to->tokens);
    memcpy(to->targets, from->targets + first, (size_t)N * sizeof *to->targets);
    memcpy(to->doc_start, from->doc_start + first, (size_t)N * sizeof *to->doc_start);
    finish_batch(to, N);
}

static void draw_again(const Case *c, bool documents, Random *r, Errors *errors) {
    Pair p = pair_create(c, 1, RECOMPUTE_NONE, r);
    fill_batch(llama3_batch(p.model, 0), c, documents, r);
    run_oracle(&p, c->B, c->T, 1);
    run_model(p.model, 1);
    add_errors(errors, &p, p.model);
    pair_destroy(&p);
}

// Loss and every gradient; then the same with recomputation, and the loss without gradients: the same bits.
static void check_gradients(const Case *c, bool documents, Random r) {
    Errors errors = {0};
    Random again = r;
    Pair p = pair_create(c, 1, RECOMPUTE_NONE, &r), recomputed = pair_create(c, 1, RECOMPUTE_BLOCK, &again);
    fill_batch(llama3_batch(p.model, 0), c, documents, &r);
    copy_batch(llama3_batch(recomputed.model, 0), llama3_batch(p.model, 0), 0, c->B * c->T);
    run_oracle(&p, c->B, c->T, 1);
    run_model(p.model, 1);
    add_errors(&errors, &p, p.model);
    while (need_draw(&p, &errors)) draw_again(c, documents, &r, &errors);
    judge(documents ? "documents" : "plain", c, &p, &errors);

    float loss, loss_again, loss_only;
    llama3_result(p.model, &loss, NULL);
    run_model(recomputed.model, 1);
    llama3_result(recomputed.model, &loss_again, NULL);
    const bool same = same_bits(p.model, recomputed.model, true);
    llama3_begin_step(p.model, count_targets(p.model, 1));
    llama3_forward_loss(p.model, 0);
    llama3_result(p.model, &loss_only, NULL);
    verdict(same && loss == loss_again && loss == loss_only,
            "%s, %s: the same bits with recomputation (gradients %s, loss %.9g and %.9g) and without "
            "gradients (%.9g)",
            c->name, documents ? "documents" : "plain", same ? "equal" : "DIFFER", loss, loss_again, loss_only);
    pair_destroy(&p);
    pair_destroy(&recomputed);
}

// 1 micro-batch of 8 rows, and 8 of 1: the same targets in all, spread unevenly.
static void check_accumulation(const Case *c, Random r) {
    enum { ROWS = 8 };
    Case whole = *c, row = *c;
    whole.B = ROWS;
    row.B = 1;
    Errors of_one = {0}, of_eight = {0};
    for (bool more = true; more;) {
        Random again = r;
        Pair a = pair_create(&whole, 1, false, &r), b = pair_create(&row, ROWS, false, &again);
        fill_batch(llama3_batch(a.model, 0), &whole, true, &r);
        for (int i = 0; i < ROWS; i++) copy_batch(llama3_batch(b.model, i), llama3_batch(a.model, 0), i * c->T, c->T);
        run_oracle(&a, ROWS, c->T, 1);
        run_model(a.model, 1);
        run_model(b.model, ROWS);
        add_errors(&of_one, &a, a.model);
        add_errors(&of_eight, &a, b.model);
        more = need_draw(&a, &of_one) || need_draw(&a, &of_eight);
        if (!more) judge("1 micro-batch of 8 rows", c, &a, &of_one);
        if (!more) judge("8 micro-batches of 1 row", c, &a, &of_eight);
        pair_destroy(&a);
        pair_destroy(&b);
    }
}

static void check_no_targets(const Case *c, Random r) {
    Pair p = pair_create(c, 1, RECOMPUTE_NONE, &r);
    Batch *batch = llama3_batch(p.model, 0);
    fill_batch(batch, c, false, &r);
    for (int i = 0; i < c->B * c->T; i++) batch->targets[i] = -1;
    finish_batch(batch, c->B * c->T);
    run_model(p.model, 1);
    float loss;
    llama3_result(p.model, &loss, NULL);
    Errors errors = {0};
    add_errors(&errors, &p, p.model); // the oracle's gradients are still zero
    const Worst worst = worst_gradient(p.table, &errors);
    verdict(loss == 0 && worst.error == 0, "%s, all targets ignored: loss %g, largest gradient %g", c->name, loss,
            worst.error);
    pair_destroy(&p);
}

static void check_logits(const Case *c, Random r) {
    Pair p = pair_create(c, 1, RECOMPUTE_NONE, &r);
    fill_batch(llama3_batch(p.model, 0), c, false, &r);
    const OracleModel oracle = oracle_of(&p);
    const int32_t *tokens = llama3_batch(p.model, 0)->tokens;
    const size_t V = (size_t)c->V;
    double *expected = allocate((size_t)c->T * V, sizeof *expected);
    float *logits = allocate(V, sizeof *logits);
    Error err = {0};
    if (oracle_logits(&oracle, tokens, c->T, expected, &err)) stop(err.message);
    const int lengths[] = {1, (c->T + 1) / 2, c->T};
    double worst = 0;
    for (int i = 0; i < 3; i++) {
        llama3_logits(p.model, tokens, lengths[i], logits);
        worst = fmax(worst, tensor_error(logits, expected + (size_t)(lengths[i] - 1) * V, V, 0));
    }
    const double limit = BF16 ? BF16_LOGITS_LIMIT : FP32_LIMIT;
    verdict(worst <= limit, "%s, logits after 1, %d and %d tokens: error %.1e of %.0e", c->name, lengths[1], c->T,
            worst, limit);
    free(expected);
    free(logits);
    pair_destroy(&p);
}

// ---- training

static AdamWStep adamw_at(int t) { // t = 1 is the first step
    const float beta1 = 0.9f, beta2 = 0.95f;
    return (AdamWStep){
        .learning_rate = 2e-4f,
        .beta1 = beta1,
        .beta2 = beta2,
        .eps = 1e-8f,
        .weight_decay = 0.1f,
        .bias_correction1 = (float)(1 - pow(beta1, t)),
        .bias_correction2 = (float)(1 - pow(beta2, t)),
        .max_grad_norm = 1.0f,
    };
}

// Losses of `steps` steps on one batch, and the gradient's norm before each, against the oracle's.
static void check_curve(const Case *c, int steps, Random r) {
    Pair p = pair_create(c, 1, RECOMPUTE_NONE, &r);
    fill_batch(llama3_batch(p.model, 0), c, true, &r);
    double *m = allocate(p.table->num_elements, sizeof *m), *v = allocate(p.table->num_elements, sizeof *v);
    double loss_error = 0, norm_error = 0, first = 0;
    float loss = 0, norm;
    for (int t = 1; t <= steps; t++) {
        const AdamWStep step = adamw_at(t);
        run_model(p.model, 1);
        llama3_clip_and_adamw(p.model, &step, INFINITY);
        llama3_result(p.model, &loss, &norm);
        run_oracle(&p, c->B, c->T, 1);
        loss_error = fmax(loss_error, relative(loss, p.loss));
        norm_error = fmax(norm_error, relative(norm, oracle_norm(p.table, p.grads)));
        oracle_adamw(p.table, p.params, m, v, p.grads, &step);
        if (t == 1) first = loss;
    }
    const double limit = curve_limit();
    verdict(loss_error <= limit && norm_error <= limit && loss < first,
            "%s, %d steps of AdamW: loss %.4f to %.4f, worst error %.1e, of the norm %.1e, of %.0e", c->name, steps,
            first, loss, loss_error, norm_error, limit);
    free(m);
    free(v);
    pair_destroy(&p);
}

static Llama3 *train(const Case *c, int steps, uint64_t seed, Random r) {
    const LlamaConfig config = config_of(c);
    Llama3 *model = create(&config, c->B, c->T, 2, false);
    llama3_init_weights(model, seed);
    for (int t = 1; t <= steps; t++) {
        const AdamWStep step = adamw_at(t);
        float loss;
        for (int i = 0; i < 2; i++) fill_batch(llama3_batch(model, i), c, true, &r);
        run_model(model, 2);
        llama3_clip_and_adamw(model, &step, INFINITY);
        llama3_result(model, &loss, NULL);
    }
    return model;
}

static void check_same_bits(const Case *c, int steps, uint64_t seed, Random r) {
    Llama3 *a = train(c, steps, seed, r), *b = train(c, steps, seed, r), *other = train(c, steps, seed + 1, r);
    const bool same = same_bits(a, b, false), differs = !same_bits(a, other, false);
    verdict(same && differs, "%s, %d steps twice: the same seed gives %s bits, another gives %s", c->name, steps,
            same ? "the same" : "OTHER", differs ? "others" : "THE SAME");
    llama3_destroy(a);
    llama3_destroy(b);
    llama3_destroy(other);
}

// The optimizer's state as a checkpoint takes it, at once into page-locked memory, against its pieces.
static void check_snapshot(const Case *c, Random r) {
    Llama3 *m = train(c, 1, 1, r);
    const ParameterTable *table = llama3_parameters(m);
    const size_t n = table->num_shard_elements, count = (size_t)llama3_training_arrays(m) * n;
    float *locked, *found = allocate(count, sizeof *found), *piece = allocate(n, sizeof *piece);
    bool same = true;
    cuda_check(cudaMallocHost((void **)&locked, count * sizeof *locked));
    llama3_get_training(m, locked);
    memcpy(found, locked, count * sizeof *found); // all of it has come when the call returns
    for (int array = 0; array < llama3_training_arrays(m); array++)
        for (int i = 0; i < table->count; i++) {
            const float *at = found + (size_t)array * n + parameter_piece(table, i, 0).at;
            llama3_get_training_piece(m, (TrainingArray)array, i, 0, size_of(&table->tensors[i]), piece);
            same = same && memcmp(at, piece, size_of(&table->tensors[i]) * sizeof *piece) == 0;
        }
    verdict(same, "%s: the optimizer's state at once is %s its pieces", c->name, same ? "that of" : "NOT that of");
    cuda_check(cudaFreeHost(locked));
    free(found);
    free(piece);
    llama3_destroy(m);
}

// ---- program

typedef struct {
    uint64_t seed;
    bool small;
} Arguments;

static const struct argp_option options[] = {
    {"seed", 's', "N", 0, "seed of weights and tokens, 0 to 2^53 (default: drawn, and printed)", 0},
    {"small", 'q', NULL, 0, "fewer and smaller checks, for sanitizers", 0},
    {0},
};

static error_t parse(int key, char *value, struct argp_state *state) {
    Arguments *arguments = state->input;
    if (key == 'q')
        arguments->small = true;
    else if (key == 's') {
        char *end;
        errno = 0;
        arguments->seed = strtoull(value, &end, 10);
        if (errno || *end || *value < '0' || *value > '9' || arguments->seed > (uint64_t)1 << 53)
            argp_error(state, "--seed: expected a whole number from 0 to 2^53, found '%s'", value);
    } else if (key == ARGP_KEY_ARG)
        argp_error(state, "unexpected argument '%s'", value);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static void print_device(const Arguments *arguments) {
    struct cudaDeviceProp device;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) stop("no GPU visible");
    cuda_check(cudaGetDeviceProperties(&device, 0));
    printf("%s, %s, --seed %llu%s\n", device.name, BF16 ? "bf16" : "fp32", (unsigned long long)arguments->seed,
           arguments->small ? " --small" : "");
}

static void run_checks(const Arguments *arguments) {
    const uint64_t seed = arguments->seed;
    const int steps = arguments->small ? 3 : 20;
    for (int i = 0; i < CASES; i++) {
        if (arguments->small && !cases[i].small) continue;
        if (!arguments->small) check_gradients(&cases[i], false, random_for(seed, 2 * (uint64_t)i));
        check_gradients(&cases[i], true, random_for(seed, 2 * (uint64_t)i + 1));
    }
    const Case *c = &cases[0];
    check_accumulation(c, random_for(seed, 100));
    check_no_targets(c, random_for(seed, 101));
    check_logits(c, random_for(seed, 102));
    check_same_bits(c, 3, seed, random_for(seed, 103));
    check_snapshot(c, random_for(seed, 106));
    check_curve(c, steps, random_for(seed, 104));
    if (!arguments->small) check_curve(&cases[1], steps, random_for(seed, 105));
}

int main(int argc, char **argv) {
    static const struct argp argp = {
        options, parse, NULL, "Check the whole model against a plain oracle in double precision.", NULL, NULL, NULL};
    Arguments arguments = {.seed = (uint64_t)time(NULL)};
    argp_err_exit_status = ERROR_INPUT;
    argp_program_version = version_of("test_llama3");
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    print_device(&arguments);
    run_checks(&arguments);
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? ERROR_FAULT : 0;
}
