// The matrix products of a layer, with the adapters of its projections (kernels/lora.cu has the maths).
#include "kernels/lora.h"
#include "model/llama3_internal.h"
#include "device/matmul.h"

// ---- the three products of a linear layer y[N,OC] = x[N,IC] · w[OC,IC]^T

void llama3_linear(Llama3 *m, floatX *y, const floatX *x, size_t w, int N, int OC, int IC) {
    matmul(y, MATMUL_OUT_FLOATX, x, m->params + w, N, OC, IC, false, true, false, m->stream);
}

void llama3_linear_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, int bucket, size_t w, int N,
                            int OC, int IC) {
    if (w < m->table.num_trained_elements)
        matmul(shards_gradient(m, bucket, w), MATMUL_OUT_FP32, dy, x, OC, IC, N, true, false, true, m->stream);
    if (dx) matmul(dx, MATMUL_OUT_FLOATX, dy, m->params + w, N, IC, OC, false, false, false, m->stream);
}

// ---- a unit of a layer

typedef struct {
    size_t w;
    int OC, IC;
} Unit;

static Unit unit_of(const Llama3 *m, int layer, LayerUnit unit) {
    const LayerOffsets *at = &m->table.layers[layer];
    const int C = m->config.hidden_size, F = m->config.intermediate_size;
    switch (unit) {
    case UNIT_QKV:
        return (Unit){at->qkv, llama3_qkv_width(m), C};
    case UNIT_OUTPUT:
        return (Unit){at->output, C, m->config.num_attention_heads * m->config.head_dim};
    case UNIT_GATE_UP:
        return (Unit){at->gate_up, 2 * F, C};
    default:
        return (Unit){at->down, C, F};
    }
}

static float adapter_scale(const Llama3 *m) { return (float)(m->table.lora_alpha / m->table.lora_rank); }

// low = x A^T
static void go_low(Llama3 *m, const LoraAdapter *a, const floatX *x, int N) {
    llama3_linear(m, m->lora.low, x, a->a, N, m->table.lora_rank, a->in);
}

static void add_adapter(Llama3 *m, const LoraAdapter *a, floatX *y, const floatX *x, int N, int width) {
    go_low(m, a, x, N);
    llama3_linear(m, m->lora.wide, m->lora.low, a->b, N, a->out, m->table.lora_rank);
    lora_add(y, m->lora.wide, adapter_scale(m), N, width, a->first, a->out, m->stream);
}

// x A^T is computed again: it is cheaper than it would be to keep for each projection.
static void adapter_backward(Llama3 *m, const LoraAdapter *a, int bucket, floatX *dx, const floatX *dy, const floatX *x,
                             int N, int width) {
    lora_take(m->lora.wide, dy, adapter_scale(m), N, width, a->first, a->out, m->stream);
    go_low(m, a, x, N);
    llama3_linear_backward(m, m->lora.dlow, m->lora.wide, m->lora.low, bucket, a->b, N, a->out, m->table.lora_rank);
    llama3_linear_backward(m, m->lora.wide, m->lora.dlow, x, bucket, a->a, N, m->table.lora_rank, a->in);
    lora_add(dx, m->lora.wide, 1.0f, N, a->in, 0, a->in, m->stream);
}

void llama3_project(Llama3 *m, floatX *y, const floatX *x, int layer, LayerUnit unit, int N) {
    const LayerOffsets *at = &m->table.layers[layer];
    const Unit u = unit_of(m, layer, unit);
    llama3_linear(m, y, x, u.w, N, u.OC, u.IC);
    for (int i = 0; i < at->num_adapters; i++)
        if (at->adapters[i].unit == unit) add_adapter(m, &at->adapters[i], y, x, N, u.OC);
}

void llama3_project_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, int layer, LayerUnit unit,
                             int N) {
    const LayerOffsets *at = &m->table.layers[layer];
    const Unit u = unit_of(m, layer, unit);
    const int bucket = llama3_layer_bucket(layer);
    llama3_linear_backward(m, dx, dy, x, bucket, u.w, N, u.OC, u.IC);
    for (int i = 0; i < at->num_adapters; i++)
        if (at->adapters[i].unit == unit) adapter_backward(m, &at->adapters[i], bucket, dx, dy, x, N, u.OC);
}
