// Computes an operation graph, each operation in fp32. A tensor of the caller's lies in memory as its strides say; a virtual
// one never has memory on a GPU, and what frontends say of its strides may overlap: here it lies without gaps.
#include <cuda_bf16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cudnn.h"

// ---- tensors in memory

struct View {
    const Tensor *tensor;
    void *memory;
    int64_t strides[4];
};

static float load(const View &v, int64_t at) {
    switch (v.tensor->type) {
    case CUDNN_DATA_BFLOAT16:
        return __bfloat162float(((const __nv_bfloat16 *)v.memory)[at]);
    case CUDNN_DATA_INT32:
        return (float)((const int32_t *)v.memory)[at];
    case CUDNN_DATA_BOOLEAN:
        return (float)((const uint8_t *)v.memory)[at];
    default:
        return ((const float *)v.memory)[at];
    }
}

static void store(const View &v, int64_t at, float x) {
    switch (v.tensor->type) {
    case CUDNN_DATA_BFLOAT16:
        ((__nv_bfloat16 *)v.memory)[at] = __float2bfloat16(x);
        break;
    case CUDNN_DATA_INT32:
        ((int32_t *)v.memory)[at] = (int32_t)x;
        break;
    case CUDNN_DATA_BOOLEAN:
        ((uint8_t *)v.memory)[at] = x != 0;
        break;
    default:
        ((float *)v.memory)[at] = x;
    }
}

static int64_t place(const View &v, const int64_t (&i)[4]) {
    return i[0] * v.strides[0] + i[1] * v.strides[1] + i[2] * v.strides[2] + i[3] * v.strides[3];
}

// Calls each(index) for all elements of a tensor of such dimensions.
template <typename Each> static void for_each(const int64_t (&dims)[4], Each each) {
    int64_t i[4];
    for (i[0] = 0; i[0] < dims[0]; i[0]++)
        for (i[1] = 0; i[1] < dims[1]; i[1]++)
            for (i[2] = 0; i[2] < dims[2]; i[2]++)
                for (i[3] = 0; i[3] < dims[3]; i[3]++) each(i);
}

// ---- pointwise

static float pointwise(int mode, float x, float b, float t) {
    switch (mode) {
    case CUDNN_POINTWISE_IDENTITY:
        return x;
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_SUB:
        return x - b;
    case CUDNN_POINTWISE_MUL:
        return x * b;
    case CUDNN_POINTWISE_DIV:
        return x / b;
    case CUDNN_POINTWISE_EXP:
        return expf(x);
    case CUDNN_POINTWISE_LOG:
        return logf(x);
    case CUDNN_POINTWISE_CMP_GE:
        return x >= b;
    case CUDNN_POINTWISE_BINARY_SELECT:
        return t != 0 ? x : b;
    default:
        fprintf(stderr, "llmc: cuDNN's stand-in does not know the pointwise operation %d\n", mode);
        exit(1);
    }
}

// The second and third input are repeated along dimensions of 1: their strides are 0 there.
static void run_pointwise(const Operation &o, const View (&in)[3], const View &out) {
    for_each(out.tensor->dims, [&](const int64_t(&i)[4]) {
        float x[3] = {};
        for (size_t k = 0; k < o.inputs.size(); k++) x[k] = load(in[k], place(in[k], i));
        const bool index = o.mode == CUDNN_POINTWISE_GEN_INDEX;
        store(out, place(out, i), index ? (float)i[o.axis] : pointwise(o.mode, x[0], x[1], x[2]));
    });
}

// ---- reductions: along each dimension so many neighbours become one as its length shrinks

static void run_reduction(const Operation &o, const View &in, const View &out) {
    int64_t group[4];
    for (int k = 0; k < 4; k++) group[k] = in.tensor->dims[k] / out.tensor->dims[k];
    const bool maximum = o.mode == CUDNN_REDUCE_TENSOR_MAX;
    if (!maximum && o.mode != CUDNN_REDUCE_TENSOR_ADD) {
        fprintf(stderr, "llmc: cuDNN's stand-in does not know the reduction %d\n", o.mode);
        exit(1);
    }
    for_each(out.tensor->dims, [&](const int64_t(&i)[4]) {
        float result = maximum ? -INFINITY : 0.0f;
        for_each(group, [&](const int64_t(&j)[4]) {
            const int64_t at[4] = {i[0] * group[0] + j[0], i[1] * group[1] + j[1], i[2] * group[2] + j[2],
                                   i[3] * group[3] + j[3]};
            const float x = load(in, place(in, at));
            result = maximum ? fmaxf(result, x) : result + x;
        });
        store(out, place(out, i), result);
    });
}

// ---- reshapes: transpositions, which the strides tell

static void run_reshape(const View &in, const View &out) {
    const Tensor &x = *in.tensor, &y = *out.tensor;
    size_t from[4]; // the input's dimension that is the output's k-th
    for (size_t k = 0; k < 4; k++) {
        from[k] = 0;
        while (from[k] < 4 && (x.dims[from[k]] != y.dims[k] || x.strides[from[k]] != y.strides[k])) from[k]++;
        if (from[k] < 4) continue;
        fprintf(stderr, "llmc: cuDNN's stand-in knows of reshapes only transpositions\n");
        exit(1);
    }
    for_each(y.dims, [&](const int64_t(&i)[4]) {
        int64_t at[4] = {};
        for (size_t k = 0; k < 4; k++) at[from[k]] = i[k];
        store(out, place(out, i), load(in, place(in, at)));
    });
}

// ---- matrix products

// What real kernels add up in fp32 in memory, they add by atomics in whatever order blocks of 64 keys end: another one in
// every call.
static std::vector<int64_t> block_order(int64_t count, bool any) {
    static unsigned calls;
    std::vector<int64_t> order((size_t)count);
    for (int64_t i = 0; i < count; i++) order[(size_t)i] = i;
    if (!any) return order;
    unsigned seed = ++calls;
    for (int64_t i = count - 1; i > 0; i--) std::swap(order[(size_t)i], order[(size_t)rand_r(&seed) % (size_t)(i + 1)]);
    return order;
}

// The matrix of batch b and head h of `heads`; several heads may share one.
static std::vector<float> matrix(const View &v, int64_t b, int64_t h, int64_t heads) {
    const Tensor &t = *v.tensor;
    std::vector<float> m((size_t)(t.dims[2] * t.dims[3]));
    const int64_t own = h * t.dims[1] / heads;
    for (int64_t i = 0; i < t.dims[2]; i++)
        for (int64_t j = 0; j < t.dims[3]; j++) m[(size_t)(i * t.dims[3] + j)] = load(v, place(v, {b, own, i, j}));
    return m;
}

static void run_matmul(const View &a, const View &b, const View &c) {
    const Tensor &t = *c.tensor;
    const int64_t rows = t.dims[2], columns = t.dims[3], inner = a.tensor->dims[3], block = 64;
    const auto order = block_order((inner + block - 1) / block, !t.is_virtual && t.type == CUDNN_DATA_FLOAT);
    for (int64_t n = 0; n < t.dims[0] * t.dims[1]; n++) {
        const int64_t batch = n / t.dims[1], head = n % t.dims[1];
        const std::vector<float> left = matrix(a, batch, head, t.dims[1]), right = matrix(b, batch, head, t.dims[1]);
        std::vector<float> sum((size_t)(rows * columns));
        for (int64_t begin : order)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t k = begin * block; k < inner && k < (begin + 1) * block; k++)
                    for (int64_t j = 0; j < columns; j++)
                        sum[(size_t)(i * columns + j)] +=
                            left[(size_t)(i * inner + k)] * right[(size_t)(k * columns + j)];
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                store(c, place(c, {batch, head, i, j}), sum[(size_t)(i * columns + j)]);
    }
}

// ---- the graph

static View view_of(const Tensor &t, void *memory) {
    View v = {&t, memory, {t.strides[0], t.strides[1], t.strides[2], t.strides[3]}};
    int64_t next = 1;
    for (int k = 3; t.is_virtual && k >= 0; k--) {
        v.strides[k] = t.dims[k] == 1 ? 0 : next;
        next *= t.dims[k];
    }
    return v;
}

void run_graph(const Graph &g, std::map<int64_t, void *> memory) {
    std::vector<std::vector<char>> own; // of virtual tensors, NaN at first
    const auto view = [&](int64_t id) {
        const Tensor &t = g.tensors.at(id);
        if (!memory[id]) {
            own.emplace_back((size_t)t.elements * type_bytes(t.type), (char)0xff);
            memory[id] = own.back().data();
        }
        return view_of(t, memory[id]);
    };
    for (const Operation &o : g.operations) {
        View in[3] = {};
        for (size_t k = 0; k < o.inputs.size(); k++) in[k] = view(o.inputs[k]);
        const View out = view(o.output);
        if (o.kind == MATMUL)
            run_matmul(in[0], in[1], out);
        else if (o.kind == REDUCTION)
            run_reduction(o, in[0], out);
        else if (o.kind == RESHAPE)
            run_reshape(in[0], out);
        else
            run_pointwise(o, in, out);
    }
}
