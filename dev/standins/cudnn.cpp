// Stand-in for cuDNN's backend API, for TARGET=cuda-on-cpu: descriptors, plans and their execution on a stream. There is one
// engine, whose workspace has the size of the real one's (cudnn_graph.cpp) and is overwritten with NaN.
#include "cudnn.h"

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include "cpu/streams.h"
#include "standins.h"

struct cudnnContext {
    cudaStream_t stream;
};

static thread_local std::string last_error;

static cudnnStatus_t refuse(cudnnStatus_t status, const std::string &why) {
    standin_tell("cuDNN", "%s", why.c_str());
    last_error = why;
    return status;
}

// ---- descriptors

DescriptorRef child(const Descriptor &d, int name) {
    const auto found = d.attributes.find(name);
    if (found == d.attributes.end() || found->second.descriptors.size() != 1) return NULL;
    return found->second.descriptors[0];
}

static DescriptorRef &at(cudnnBackendDescriptor_t descriptor) { return *(DescriptorRef *)descriptor; }

static size_t attribute_bytes(cudnnBackendAttributeType_t type) {
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_CHAR:
        return 1;
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
        return 8;
    case CUDNN_TYPE_FRACTION:
        return 16;
    default:
        return 4; // float, int32 and the enumerations
    }
}

// A descriptor that the library hands out, finalized, with one attribute.
static DescriptorRef made(cudnnBackendDescriptorType_t type, cudnnBackendAttributeName_t name,
                          const DescriptorRef &of) {
    const DescriptorRef d = std::make_shared<Descriptor>();
    d->type = type;
    d->finalized = true;
    d->attributes[name] = {CUDNN_TYPE_BACKEND_DESCRIPTOR, {}, {of}};
    return d;
}

template <typename T> static Attribute number(cudnnBackendAttributeType_t type, T value) {
    const char *bytes = (const char *)&value;
    return {type, {bytes, bytes + sizeof value}, {}};
}

// ---- what follows from a descriptor's attributes once they are complete

static cudnnStatus_t finish_graph(Descriptor &d) {
    const std::shared_ptr<Graph> graph = std::make_shared<Graph>();
    const std::string why = read_graph(graph.get(), d);
    if (!why.empty()) return refuse(CUDNN_STATUS_NOT_SUPPORTED, why);
    d.graph = graph;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finish_heuristics(Descriptor &d) {
    const DescriptorRef graph = child(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (!graph || !graph->graph) return refuse(CUDNN_STATUS_BAD_PARAM, "a choice of engines without a graph");
    const DescriptorRef engine = made(CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    engine->attributes[CUDNN_ATTR_ENGINE_GLOBAL_INDEX] = number<int64_t>(CUDNN_TYPE_INT64, 0);
    const DescriptorRef config = made(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    config->attributes[CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED] = number<int32_t>(CUDNN_TYPE_INT32, 0);
    d.attributes[CUDNN_ATTR_ENGINEHEUR_RESULTS] = {CUDNN_TYPE_BACKEND_DESCRIPTOR, {}, {config}};
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finish_plan(Descriptor &d) {
    const DescriptorRef config = child(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    const DescriptorRef engine = config ? child(*config, CUDNN_ATTR_ENGINECFG_ENGINE) : NULL;
    if (!engine) return refuse(CUDNN_STATUS_BAD_PARAM, "a plan without an engine");
    d.graph = child(*engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH)->graph;
    d.attributes[CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE] = number(CUDNN_TYPE_INT64, d.graph->workspace);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finish(Descriptor &d) {
    switch (d.type) {
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
        return finish_graph(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        return finish_heuristics(d);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return finish_plan(d);
    default:
        return CUDNN_STATUS_SUCCESS;
    }
}

// ---- execution

// Addresses by the ids of tensors. Numbers that are given by value are copied: they may be gone when the stream comes to them.
struct Call {
    std::map<int64_t, void *> memory;
    std::map<int64_t, std::vector<char>> numbers;
    float *workspace;
};

static cudnnStatus_t check_address(const Tensor &t, const void *address) {
    const std::string name = "tensor " + std::to_string(t.id);
    if (!address) return refuse(CUDNN_STATUS_BAD_PARAM, name + " has no address");
    if (t.by_value) return CUDNN_STATUS_SUCCESS;
    if ((size_t)address % (size_t)t.alignment) return refuse(CUDNN_STATUS_BAD_PARAM, name + " is not aligned");
    if (!standin_on_device(address, type_bytes(t.type) * (size_t)t.span))
        return refuse(CUDNN_STATUS_BAD_PARAM, name + " reaches beyond an allocation");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t read_pack(Call *call, const Graph &graph, const Descriptor &pack) {
    const std::vector<void *> addresses = values<void *>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    const std::vector<int64_t> ids = values<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    if (addresses.size() != ids.size())
        return refuse(CUDNN_STATUS_BAD_PARAM, "a variant pack with other ids than addresses");
    for (size_t i = 0; i < ids.size(); i++) call->memory[ids[i]] = addresses[i];
    for (const auto &[id, tensor] : graph.tensors) {
        if (tensor.is_virtual) continue;
        const cudnnStatus_t status = check_address(tensor, call->memory[id]);
        if (status != CUDNN_STATUS_SUCCESS) return status;
        const char *bytes = (const char *)call->memory[id];
        if (tensor.by_value) call->numbers[id] = {bytes, bytes + type_bytes(tensor.type)};
    }
    call->workspace = value<float *>(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, NULL);
    if (graph.workspace && !standin_on_device(call->workspace, (size_t)graph.workspace))
        return refuse(CUDNN_STATUS_BAD_PARAM, "the workspace is too small");
    return CUDNN_STATUS_SUCCESS;
}

static void run(const std::shared_ptr<const Graph> &graph, Call call) {
    for (int64_t i = 0; i < graph->workspace / (int64_t)sizeof(float); i++) call.workspace[i] = NAN;
    for (auto &[id, bytes] : call.numbers) call.memory[id] = bytes.data();
    run_graph(*graph, call.memory);
}

// ---- the API

extern "C" {

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }

const char *cudnnGetErrorString(cudnnStatus_t status) {
    switch (status) {
    case CUDNN_STATUS_SUCCESS:
        return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
        return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
        return "CUDNN_STATUS_NOT_SUPPORTED";
    default:
        return "CUDNN_STATUS_EXECUTION_FAILED";
    }
}

void cudnnGetLastErrorString(char *message, size_t max_size) { snprintf(message, max_size, "%s", last_error.c_str()); }

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = new cudnnContext{NULL};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
    *stream = handle->stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *descriptor) {
    *descriptor = new DescriptorRef(std::make_shared<Descriptor>());
    at(*descriptor)->type = type;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    delete (DescriptorRef *)descriptor;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *elements) {
    Descriptor &d = *at(descriptor);
    if (d.finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute of a descriptor that is finalized");
    Attribute &a = d.attributes[name];
    a = {type, {}, {}};
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        const cudnnBackendDescriptor_t *given = (const cudnnBackendDescriptor_t *)elements;
        for (int64_t i = 0; i < count; i++) {
            if (!at(given[i])->finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "a descriptor that is not finalized");
            a.descriptors.push_back(at(given[i]));
        }
    } else {
        a.bytes.assign((const char *)elements, (const char *)elements + (size_t)count * attribute_bytes(type));
    }
    return CUDNN_STATUS_SUCCESS;
}

// What has not been set, such as an engine's notes, has no elements.
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t capacity, int64_t *count,
                                       void *elements) {
    const Descriptor &d = *at(descriptor);
    const auto found = d.attributes.find(name);
    const size_t bytes = attribute_bytes(type);
    int64_t there = 0;
    if (found != d.attributes.end()) {
        const Attribute &a = found->second;
        if (a.type != type) return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute is read as another type");
        const bool descriptors = type == CUDNN_TYPE_BACKEND_DESCRIPTOR;
        there = (int64_t)(descriptors ? a.descriptors.size() : a.bytes.size() / bytes);
        for (int64_t i = 0; descriptors && i < there && i < capacity; i++)
            at(((cudnnBackendDescriptor_t *)elements)[i]) = a.descriptors[(size_t)i];
        if (!descriptors) memcpy(elements, a.bytes.data(), bytes * (size_t)(there < capacity ? there : capacity));
    }
    if (count) *count = there;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    const cudnnStatus_t status = finish(*at(descriptor));
    at(descriptor)->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    const std::shared_ptr<const Graph> graph = at(plan)->graph;
    if (!graph || !at(pack)->finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "a plan or pack that is not finalized");
    Call call = {};
    const cudnnStatus_t status = read_pack(&call, *graph, *at(pack));
    if (status == CUDNN_STATUS_SUCCESS) host_queue((HostStream *)handle->stream, [=] { run(graph, call); });
    return status;
}
}
