// Attention by cuDNN's graph API, through NVIDIA's cudnn-frontend: the operation SDPA of its documentation, forward and
// backward, on our packed layouts. What cuDNN calls a tensor [B, heads, T, HD] is a view of ours:
//
//   Q, K, V of qkv, dQ, dK, dV of dqkv   [B, T, (NH + 2 NKV) HD]   strides T W, HD, W, 1 with W = (NH + 2 NKV) HD
//   O, dO                                [B, T, NH HD]             likewise with W = NH HD
//   stats, natural logarithm             [B, NH, T]
//
// The composite form of SDPA is asked for: with cudnn-frontend 1.18 it is the same graph of plain operations for every cuDNN 9,
// which a stand-in computes where there is no GPU (dev/standins/cudnn.h).
#include "kernels/attention_cudnn.h"

#include <algorithm>
#include <cudnn_frontend.h>
#include <math.h>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <string.h>
#include <unordered_map>

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;
using Pointers = std::unordered_map<int64_t, void *>;

enum TensorId : int64_t { Q = 1, K, V, O, STATS, DO, DQ, DK, DV };

struct CudnnAttention {
    AttentionShape shape;
    cudnnHandle_t handle; // NULL: planned for a device that is not here
    Graph forward, backward;
    int64_t workspace;
};

// ---- graphs

static int64_t qkv_width(AttentionShape s) { return (int64_t)(s.NH + 2 * s.NKV) * s.HD; }
static int64_t out_width(AttentionShape s) { return (int64_t)s.NH * s.HD; }

// A view of the heads of an array [B, T, width].
static void set_heads(fe::graph::Tensor_attributes &t, AttentionShape s, int heads, int64_t width) {
    t.set_dim({s.B, heads, s.T, s.HD}).set_stride({width * s.T, s.HD, width, 1});
}

static Tensor heads_input(Graph &g, TensorId id, AttentionShape s, int heads, int64_t width) {
    fe::graph::Tensor_attributes t;
    set_heads(t.set_uid(id), s, heads, width);
    return g.tensor(t);
}

static void heads_output(const Tensor &t, TensorId id, AttentionShape s, int heads, int64_t width) {
    set_heads(t->set_uid(id).set_output(true), s, heads, width);
}

static void set_stats(fe::graph::Tensor_attributes &t, AttentionShape s) {
    t.set_uid(STATS).set_data_type(fe::DataType_t::FLOAT);
    t.set_dim({s.B, s.NH, s.T, 1}).set_stride({(int64_t)s.NH * s.T, s.T, 1, 1});
}

static float scale_of(AttentionShape s) { return 1.0f / sqrtf((float)s.HD); }

static void add_forward(Graph &g, AttentionShape s) {
    const int64_t width = qkv_width(s);
    const Tensor q = heads_input(g, Q, s, s.NH, width);
    const Tensor k = heads_input(g, K, s, s.NKV, width);
    const Tensor v = heads_input(g, V, s, s.NKV, width);
    auto options = fe::graph::SDPA_attributes().set_name("forward").set_attn_scale(scale_of(s));
    options.set_causal_mask(true).set_generate_stats(true);
    options.set_implementation(fe::AttentionImplementation_t::COMPOSITE);
    const auto [out, stats] = g.sdpa(q, k, v, options);
    heads_output(out, O, s, s.NH, out_width(s));
    set_stats(stats->set_output(true), s);
}

static void add_backward(Graph &g, AttentionShape s, bool same_bits) {
    const int64_t width = qkv_width(s);
    const Tensor q = heads_input(g, Q, s, s.NH, width);
    const Tensor k = heads_input(g, K, s, s.NKV, width);
    const Tensor v = heads_input(g, V, s, s.NKV, width);
    const Tensor out = heads_input(g, O, s, s.NH, out_width(s));
    const Tensor dout = heads_input(g, DO, s, s.NH, out_width(s));
    fe::graph::Tensor_attributes stats;
    set_stats(stats, s);
    auto options = fe::graph::SDPA_backward_attributes().set_name("backward").set_attn_scale(scale_of(s));
    options.set_causal_mask(true).set_deterministic_algorithm(same_bits);
    const auto [dq, dk, dv] = g.sdpa_backward(q, k, v, out, dout, g.tensor(stats), options);
    heads_output(dq, DQ, s, s.NH, width);
    heads_output(dk, DK, s, s.NKV, width);
    heads_output(dv, DV, s, s.NKV, width);
}

// ---- plans

using Failure = fe::error_t;

static Failure describe_device(Graph &g, const CudnnDevice *device) {
    const char *text = device->properties;
    const auto properties = std::make_shared<fe::DeviceProperties>();
    g.set_device_properties(properties).set_sm_version(device->sm);
    return properties->deserialize({text, text + strlen(text) + 1});
}

// *workspace grows to what the graph needs.
static Failure plan(Graph &g, cudnnHandle_t handle, const CudnnDevice *device, int64_t *workspace) {
    int64_t bytes = 0;
    Failure e;
    if (device) e = describe_device(g, device);
    if (e.is_good()) e = g.validate();
    if (e.is_good()) e = device ? g.build_operation_graph() : g.build_operation_graph(handle);
    if (e.is_good()) e = g.create_execution_plans({fe::HeurMode_t::A});
    if (e.is_good()) e = g.check_support();
    if (e.is_good()) e = g.build_plans();
    if (e.is_good()) e = g.get_workspace_size(bytes);
    *workspace = std::max(*workspace, bytes);
    return e;
}

static void set_types(Graph &g) {
    g.set_io_data_type(fe::DataType_t::BFLOAT16);
    g.set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
}

static Failure plan_both(CudnnAttention *a, CudnnBackward backward, const CudnnDevice *device) {
    set_types(a->forward);
    add_forward(a->forward, a->shape);
    const Failure e = plan(a->forward, a->handle, device, &a->workspace);
    if (e.is_bad() || backward == CUDNN_NO_BACKWARD) return e;
    set_types(a->backward);
    add_backward(a->backward, a->shape, backward == CUDNN_SAME_BITS);
    return plan(a->backward, a->handle, device, &a->workspace);
}

int cudnn_attention_check(Error *err) {
    if (sizeof(floatX) == 2) return 0;
    return fail_input(err, "cuDNN's attention computes in bf16, and this program was built with PRECISION=fp32");
}

const char *cudnn_attention_version(void) {
    static char text[32];
    const size_t version = cudnnGetVersion();
    snprintf(text, sizeof text, "%zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
    return text;
}

// cuDNN's messages have several lines, of which the first says what.
static int fail_plan(AttentionShape s, Failure why, Error *err) {
    const std::string text = why.get_message();
    return fail_input(err, "cuDNN %s has no attention for rows of %d tokens with %d heads over %d of %d here: %.*s",
                      cudnn_attention_version(), s.T, s.NH, s.NKV, s.HD, (int)std::min<size_t>(text.find('\n'), 400),
                      text.c_str());
}

int cudnn_attention_create(CudnnAttention **out, AttentionShape shape, CudnnBackward backward,
                           const CudnnDevice *device, Error *err) {
    const int code = cudnn_attention_check(err);
    if (code) return code;
    CudnnAttention *a = new CudnnAttention{shape, NULL, {}, {}, 0};
    const cudnnStatus_t status = device ? CUDNN_STATUS_SUCCESS : cudnnCreate(&a->handle);
    if (status != CUDNN_STATUS_SUCCESS) {
        delete a;
        return fail_fault(err, "cudnnCreate: %s", cudnnGetErrorString(status));
    }
    const Failure error = plan_both(a, backward, device);
    if (error.is_good()) {
        *out = a;
        return 0;
    }
    cudnn_attention_destroy(a);
    return fail_plan(shape, error, err);
}

void cudnn_attention_destroy(CudnnAttention *a) {
    if (a && a->handle) cudnnDestroy(a->handle);
    delete a;
}

size_t cudnn_attention_workspace(const CudnnAttention *a) { return (size_t)a->workspace; }

// ---- execution

static void check(const CudnnAttention *a, const char *what, const std::string &failure) {
    if (failure.empty()) return;
    const AttentionShape s = a->shape;
    fprintf(stderr, "llmc: cuDNN attention, %s pass of B=%d T=%d NH=%d NKV=%d HD=%d: %s\n", what, s.B, s.T, s.NH, s.NKV,
            s.HD, failure.c_str());
    exit(1);
}

static void execute(CudnnAttention *a, const Graph &g, const char *what, Pointers pointers, void *workspace,
                    cudaStream_t stream) {
    const cudnnStatus_t status = cudnnSetStream(a->handle, stream);
    check(a, what, status == CUDNN_STATUS_SUCCESS ? "" : cudnnGetErrorString(status));
    Failure error = g.execute(a->handle, pointers, workspace);
    check(a, what, error.is_good() ? "" : error.get_message());
}

// Where the queries, keys and values of a packed array begin.
static void add_qkv(Pointers &pointers, const TensorId (&ids)[3], const floatX *qkv, AttentionShape s) {
    floatX *begin = const_cast<floatX *>(qkv);
    pointers[ids[0]] = begin;
    pointers[ids[1]] = begin + (size_t)s.NH * s.HD;
    pointers[ids[2]] = begin + (size_t)(s.NH + s.NKV) * s.HD;
}

void cudnn_attention_forward(CudnnAttention *a, floatX *out, float *lse, const floatX *qkv, void *workspace,
                             cudaStream_t stream) {
    Pointers pointers = {{O, out}, {STATS, lse}};
    add_qkv(pointers, {Q, K, V}, qkv, a->shape);
    execute(a, a->forward, "forward", pointers, workspace, stream);
}

void cudnn_attention_backward(CudnnAttention *a, floatX *dqkv, const floatX *dout, const floatX *out, const floatX *qkv,
                              const float *lse, void *workspace, cudaStream_t stream) {
    Pointers pointers = {
        {O, const_cast<floatX *>(out)}, {DO, const_cast<floatX *>(dout)}, {STATS, const_cast<float *>(lse)}};
    add_qkv(pointers, {Q, K, V}, qkv, a->shape);
    add_qkv(pointers, {DQ, DK, DV}, dqkv, a->shape);
    execute(a, a->backward, "backward", pointers, workspace, stream);
}
