// Reads an operation graph from the backend's descriptors, and says whether there is an engine for it: one for attention,
// forward (two products) or backward (five).
#include <cuda_runtime.h>

#include "cudnn.h"

using std::string;

size_t type_bytes(cudnnDataType_t type) {
    switch (type) {
    case CUDNN_DATA_BFLOAT16:
        return 2;
    case CUDNN_DATA_BOOLEAN:
        return 1;
    default:
        return 4;
    }
}

// ---- tensors and operations

static string read_tensor(Tensor *t, const Descriptor &d) {
    const std::vector<int64_t> dims = values<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const std::vector<int64_t> strides = values<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES);
    t->id = value<int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 0);
    t->alignment = value<int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1);
    t->type = value(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_DATA_DOUBLE);
    t->is_virtual = value(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, false);
    t->by_value = value(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, false);
    if (dims.size() != strides.size() || dims.size() > 4) return "a tensor of other than up to 4 dimensions";
    if (t->type != CUDNN_DATA_FLOAT && t->type != CUDNN_DATA_BFLOAT16 && t->type != CUDNN_DATA_INT32 &&
        t->type != CUDNN_DATA_BOOLEAN)
        return "a tensor of type " + std::to_string(t->type);
    const size_t first = 4 - dims.size();
    for (size_t i = 0; i < dims.size(); i++) {
        if (dims[i] < 1 || strides[i] < 0) return "a tensor with dimension or stride below its least";
        t->dims[first + i] = dims[i];
        t->strides[first + i] = dims[i] == 1 ? 0 : strides[i];
        t->elements *= dims[i];
        t->span += (dims[i] - 1) * t->strides[first + i];
    }
    return "";
}

// Adds the tensor of an operation's attribute, if it is set.
static string add_tensor(Graph *g, int64_t *id, const Descriptor &operation, int name) {
    const DescriptorRef d = child(operation, name);
    Tensor t;
    *id = 0;
    if (!d) return "";
    const string why = read_tensor(&t, *d);
    *id = t.id;
    g->tensors[t.id] = t;
    return why;
}

static string add_operation(Graph *g, const Operation &kind, const Descriptor &d, std::vector<int> inputs, int output) {
    Operation o = kind;
    for (int name : inputs) {
        int64_t id;
        const string why = add_tensor(g, &id, d, name);
        if (!why.empty()) return why;
        if (id) o.inputs.push_back(id);
    }
    const string why = add_tensor(g, &o.output, d, output);
    if (why.empty() && (o.inputs.empty() || !o.output)) return "an operation without input or output";
    g->operations.push_back(o);
    return why;
}

static string read_pointwise(Graph *g, const Descriptor &d) {
    const DescriptorRef what = child(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    if (!what) return "a pointwise operation without its descriptor";
    const int mode = value(*what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_TANH_FWD);
    if (value(d, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, 1.0f) != 1.0f ||
        value(d, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, 1.0f) != 1.0f)
        return "a pointwise operation with a factor";
    return add_operation(g, {POINTWISE, mode, value<int64_t>(*what, CUDNN_ATTR_POINTWISE_AXIS, -1), {}, 0}, d,
                         {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                          CUDNN_ATTR_OPERATION_POINTWISE_TDESC},
                         CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
}

static string read_operation(Graph *g, const Descriptor &d) {
    switch (d.type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return add_operation(g, {MATMUL, 0, 0, {}, 0}, d,
                             {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC},
                             CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return read_pointwise(g, d);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: {
        const DescriptorRef what = child(d, CUDNN_ATTR_OPERATION_REDUCTION_DESC);
        const int mode = what ? value(*what, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_REDUCE_TENSOR_MUL) : -1;
        return add_operation(g, {REDUCTION, mode, 0, {}, 0}, d, {CUDNN_ATTR_OPERATION_REDUCTION_XDESC},
                             CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    }
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return add_operation(g, {RESHAPE, 0, 0, {}, 0}, d, {CUDNN_ATTR_OPERATION_RESHAPE_XDESC},
                             CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    default:
        return "an operation of kind " + std::to_string(d.type);
    }
}

// ---- is it attention?

static int count(const Graph &g, Kind kind, int mode) {
    int found = 0;
    for (const Operation &o : g.operations) found += o.kind == kind && o.mode == mode;
    return found;
}

static string check_order(const Graph &g) {
    std::map<int64_t, bool> known;
    for (const Operation &o : g.operations) {
        for (int64_t id : o.inputs)
            if (g.tensors.at(id).is_virtual && !known[id]) return "an operation that reads what is computed after it";
        known[o.output] = true;
    }
    return "";
}

static int sm_version() {
    int device = 0;
    cudaDeviceProp properties;
    if (cudaGetDevice(&device) || cudaGetDeviceProperties(&properties, device)) return 0;
    return 10 * properties.major + properties.minor;
}

// Heads as NVIDIA's documentation of the operation allows them: multiples of 8, at most 128, on Hopper 256.
static string check_heads(const Graph &g) {
    for (const auto &[id, t] : g.tensors) {
        if (t.is_virtual || t.by_value || t.type != CUDNN_DATA_BFLOAT16) continue;
        const int64_t width = t.strides[3] == 1 ? t.dims[3] : t.dims[2]; // transposed keys
        const int64_t most = sm_version() >= 90 ? 256 : 128;
        if (t.strides[3] != 1 && t.strides[2] != 1) return "a tensor whose heads are not contiguous";
        if (width % 8 || width > most) return "heads of " + std::to_string(width);
    }
    return "";
}

static bool reads(const Graph &g, Kind kind, int64_t id) {
    for (const Operation &o : g.operations)
        if (o.kind == kind && o.inputs[0] == id) return true;
    return false;
}

// Backward: gradients of keys and values of all query heads, before groups are summed; and, where dQ is not added up in
// memory by blocks in any order, the gradient of all scores. As cuDNN 9.19 and 9.26 plan it.
static int64_t backward_workspace(const Graph &g) {
    int64_t heads = 0, scores = 0;
    bool any_order = false;
    for (const Operation &o : g.operations) {
        const Tensor &t = g.tensors.at(o.output);
        if (o.kind != MATMUL) continue;
        if (t.is_virtual && reads(g, REDUCTION, t.id)) heads += t.elements;
        if (!t.is_virtual && t.type == CUDNN_DATA_FLOAT) any_order = true;
        if (t.is_virtual && !reads(g, REDUCTION, t.id))
            scores = t.dims[0] * t.dims[1] * ((t.dims[2] + 63) / 64 * 64) * ((t.dims[3] + 63) / 64 * 64);
    }
    return any_order ? heads * (sm_version() >= 90 ? 2 : 4) : 2 * heads + 2 * scores;
}

string read_graph(Graph *g, const Descriptor &d) {
    const auto operations = d.attributes.find(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    if (operations == d.attributes.end()) return "a graph without operations";
    for (const DescriptorRef &operation : operations->second.descriptors) {
        const string why = read_operation(g, *operation);
        if (!why.empty()) return why;
    }
    const int products = count(*g, MATMUL, 0);
    if (products != 2 && products != 5) return "a graph of " + std::to_string(products) + " matrix products";
    if (count(*g, POINTWISE, CUDNN_POINTWISE_BINARY_SELECT) != 1 || count(*g, POINTWISE, CUDNN_POINTWISE_CMP_GE) != 1)
        return "attention without a causal mask";
    if (products == 5) g->workspace = backward_workspace(*g);
    const string why = check_order(*g);
    return why.empty() ? check_heads(*g) : why;
}
