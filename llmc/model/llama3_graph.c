// A micro-batch's kernels as one CUDA graph, for models so small that the host launches kernels more slowly than a GPU
// ends them. Copies of the batch come before the graph; whatever else changes from call to call lies in device memory.
// Which kernels there are depends on whether the micro-batch is the step's first, which writes gradients to which the
// others add, and on whether it is the last, after which sums of their squares are made: so there are four graphs. A
// kind's first micro-batch is computed without one, since matrix products choose their algorithms at first use; the
// second is captured.
#include <stdlib.h>

#include "device/matmul.h"
#include "model/llama3.h"
#include "model/llama3_state.h"

int llama3_allocate_graphs(Llama3 *m, Error *err) {
    for (int i = 0; m->shape.graph && i < MICRO_BATCH_KINDS; i++) {
        m->graphs[i].after = calloc(1, zero_state_bytes(m->zero));
        if (!m->graphs[i].after) return fail_fault(err, "no memory for the state after a graph");
    }
    return 0;
}

void llama3_forget_graphs(Llama3 *m) {
    for (int i = 0; i < MICRO_BATCH_KINDS; i++) {
        MicroBatchGraph *g = &m->graphs[i];
        if (g->exec) cuda_check(cudaGraphExecDestroy(g->exec));
        g->exec = NULL;
        g->seen = false;
    }
}

void llama3_free_graphs(Llama3 *m) {
    llama3_forget_graphs(m);
    for (int i = 0; i < MICRO_BATCH_KINDS; i++) free(m->graphs[i].after);
}

static void compute(Llama3 *m) {
    llama3_run_forward(m, m->shape.B, m->shape.T, NULL, NULL);
    llama3_loss(m);
    llama3_backward(m);
}

static void capture(Llama3 *m, MicroBatchGraph *g) {
    cudaGraph_t graph;
    // other threads may go on to call what must not be called in a capture
    cuda_check(cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal));
    compute(m);
    cuda_check(cudaStreamEndCapture(m->stream, &graph));
    cuda_check(cudaGraphInstantiateWithFlags(&g->exec, graph, 0));
    cuda_check(cudaGraphDestroy(graph));
    zero_get_state(m->zero, g->after);
}

static void launch_graph(Llama3 *m, MicroBatchGraph *g) {
    matmul_take_workspace(m->stream);
    if (!g->exec) capture(m, g);
    zero_set_state(m->zero, g->after);
    cuda_check(cudaGraphLaunch(g->exec, m->stream));
}

void llama3_gradients(Llama3 *m, int i) {
    llama3_upload_batch(m, i);
    MicroBatchGraph *g = &m->graphs[(zero_has_gradients(m->zero) ? 2 : 0) + m->batch.last];
    if (m->shape.graph && g->seen)
        launch_graph(m, g);
    else
        compute(m);
    g->seen = true;
}
