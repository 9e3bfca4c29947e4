// The stand-in for cuDNN: what is behind the backend API's opaque descriptors, and the graph of operations that they describe.
//
// It knows the operations of which NVIDIA's cudnn-frontend composes attention (matrix products, pointwise operations,
// reductions, reshapes), and computes them one after the other on the tensors' own dimensions, strides and types. A graph of
// anything else is refused.
#ifndef LLMC_STANDINS_CUDNN_H
#define LLMC_STANDINS_CUDNN_H

#include <cudnn.h>
#include <map>
#include <memory>
#include <string>
#include <vector>

// ---- descriptors: attributes as they were set (cudnn.cpp)

struct Descriptor;
using DescriptorRef = std::shared_ptr<Descriptor>;

struct Attribute {
    cudnnBackendAttributeType_t type;
    std::vector<char> bytes;                // values, or
    std::vector<DescriptorRef> descriptors; // CUDNN_TYPE_BACKEND_DESCRIPTOR
};

struct Graph;
struct Descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<int, Attribute> attributes;
    std::shared_ptr<const Graph> graph; // of an operation graph
};

DescriptorRef child(const Descriptor &d, int name); // NULL: not set
template <typename T> std::vector<T> values(const Descriptor &d, int name) {
    const auto found = d.attributes.find(name);
    if (found == d.attributes.end()) return {};
    const T *first = (const T *)found->second.bytes.data();
    return std::vector<T>(first, first + found->second.bytes.size() / sizeof(T));
}
template <typename T> T value(const Descriptor &d, int name, T otherwise) {
    const std::vector<T> all = values<T>(d, name);
    return all.size() == 1 ? all[0] : otherwise;
}

// ---- graphs (cudnn_graph.cpp)

struct Tensor {
    int64_t id = 0, alignment = 1, elements = 1, span = 1; // span: from the first element to the last, in memory
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    int64_t dims[4] = {1, 1, 1, 1}, strides[4] = {0, 0, 0, 0}; // of [B, heads, rows, columns]
    bool is_virtual = false, by_value = false;
};

enum Kind { MATMUL, POINTWISE, REDUCTION, RESHAPE };
struct Operation {
    Kind kind;
    int mode;                    // cudnnPointwiseMode_t or cudnnReduceTensorOp_t
    int64_t axis;                // of CUDNN_POINTWISE_GEN_INDEX
    std::vector<int64_t> inputs; // ids of tensors
    int64_t output;
};

struct Graph {
    std::map<int64_t, Tensor> tensors;
    std::vector<Operation> operations; // each after those whose outputs it reads
    int64_t workspace = 0;             // bytes
};

// An empty text, or why there is no attention like this.
std::string read_graph(Graph *graph, const Descriptor &operation_graph);

// ---- execution (cudnn_run.cpp)

size_t type_bytes(cudnnDataType_t type);

// Computes the graph on memory[id], the addresses of all tensors that are not virtual.
void run_graph(const Graph &graph, std::map<int64_t, void *> memory);

#endif
