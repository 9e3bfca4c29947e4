// Micro-batches: the host memory in which they are handed to the model, and the running one on the device.
#include "model/llama3_batch.h"

#include <stdlib.h>

#include "model/llama3_state.h"

// ---- memory

void llama3_plan_batch(Llama3 *m) {
    const size_t N = (size_t)m->limits.positions, answers = N / 2, word = sizeof(int32_t);
    const MemoryKind kind = MEMORY_WORKSPACE;
    DeviceBatch *b = &m->batch;
    AnswerBatch *a = &m->answers;
    b->tokens = memory_take(&m->memory, kind, N * word);
    b->targets = memory_take(&m->memory, kind, N * word);
    b->doc_start = memory_take(&m->memory, kind, N * word);
    b->order = memory_take(&m->memory, kind, N * word);
    b->all_excluded = memory_take(&m->memory, kind, 2 * N * word);
    if (!m->shape.comparisons) return;
    a->spans = memory_take(&m->memory, kind, 2 * answers * word);
    a->groups = memory_take(&m->memory, kind, 2 * answers * word);
    a->counters = memory_take(&m->memory, kind, 2 * word);
    a->seq_logprobs = memory_take(&m->memory, kind, answers * sizeof(float));
    a->num_targets = memory_take(&m->memory, kind, answers * sizeof(float));
    a->ref_logprobs = memory_take(&m->memory, kind, answers * sizeof(float));
    a->dseq = memory_take(&m->memory, kind, answers * sizeof(float));
    a->weights = memory_take(&m->memory, kind, N * sizeof(float));
}

// A multiple of 8: arrays whose elements have 8 bytes come first.
size_t llama3_batch_bytes(int positions) {
    const size_t N = (size_t)positions, answers = N / 2;
    const size_t eight = sizeof(int64_t) + sizeof(AnswerSpan) + sizeof(AnswerGroup); // [answers]
    return (answers * eight + 6 * N * sizeof(int32_t) + 7) / 8 * 8;
}

static void place_batch(Batch *batch, char *memory, size_t N) {
    const size_t answers = N / 2;
    batch->answer_numbers = (int64_t *)memory;
    batch->answers = (AnswerSpan *)(batch->answer_numbers + answers);
    batch->groups = (AnswerGroup *)(batch->answers + answers);
    batch->tokens = (int32_t *)(batch->groups + answers);
    batch->targets = batch->tokens + N;
    batch->doc_start = batch->targets + N;
    batch->order = batch->doc_start + N;
    batch->excluded = batch->order + N;
}

static size_t num_slots(const Llama3 *m) { return m->shape.training ? STEP_SLOTS : 1; }

int llama3_allocate_batches(Llama3 *m, Error *err) {
    HostMemory *h = &m->host;
    const ShapeLimits *most = &m->limits;
    const size_t slots = num_slots(m), count = slots * (size_t)most->micro_batches;
    h->batches = calloc(count, sizeof *h->batches);
    if (!h->batches) return fail_fault(err, "no memory for %zu micro-batches", count);
    cuda_check(cudaMallocHost((void **)&h->batch_memory, slots * most->batch_bytes));
    if (m->shape.comparisons) {
        cuda_check(cudaMallocHost((void **)&h->ref_logprobs, slots * most->ref_logprobs * sizeof *h->ref_logprobs));
        cuda_check(cudaMallocHost((void **)&h->counters, 2 * count * sizeof *h->counters));
    }
    llama3_place_batches(m);
    return 0;
}

void llama3_place_batches(Llama3 *m) {
    const size_t count = num_slots(m) * (size_t)m->shape.micro_batches, bytes = llama3_batch_bytes(num_positions(m));
    for (size_t i = 0; i < count; i++)
        place_batch(&m->host.batches[i], m->host.batch_memory + i * bytes, (size_t)num_positions(m));
}

void llama3_free_batches(Llama3 *m) {
    HostMemory *h = &m->host;
    cuda_check(cudaFreeHost(h->batch_memory));
    cuda_check(cudaFreeHost(h->ref_logprobs));
    cuda_check(cudaFreeHost(h->counters));
    free(h->batches);
}

// The number of the running step's micro-batch i in host memory.
static size_t place_of(const Llama3 *m, int i) { return (size_t)(m->step.slot * m->shape.micro_batches + i); }

Batch *llama3_batch(Llama3 *m, int i) { return &m->host.batches[place_of(m, i)]; }

float *llama3_ref_logprobs(Llama3 *m, int i) {
    return m->host.ref_logprobs ? m->host.ref_logprobs + place_of(m, i) * (size_t)max_answers(m) : NULL;
}

// ---- to the device

static void upload(Llama3 *m, int32_t *to, const int32_t *from, size_t count) {
    cuda_check(cudaMemcpyAsync(to, from, count * sizeof *to, cudaMemcpyHostToDevice, m->stream));
}

void llama3_upload_answers(Llama3 *m, int i) {
    const Batch *batch = llama3_batch(m, i);
    const size_t bytes = (size_t)batch->num_answers * sizeof(float);
    AnswerBatch *a = &m->answers;
    int32_t *counters = m->host.counters + 2 * place_of(m, i);
    counters[0] = batch->num_answers;
    counters[1] = batch->num_groups;
    upload(m, a->counters, counters, 2);
    upload(m, a->spans, &batch->answers->first, 2 * (size_t)batch->num_answers);
    upload(m, a->groups, &batch->groups->first, 2 * (size_t)batch->num_groups);
    cuda_check(cudaMemcpyAsync(a->ref_logprobs, llama3_ref_logprobs(m, i), bytes, cudaMemcpyHostToDevice, m->stream));
}

static bool has_documents(const int32_t *doc_start, size_t count) {
    for (size_t t = 0; t < count; t++)
        if (doc_start[t]) return true;
    return false;
}

static bool has_excluded(const int32_t *excluded, size_t count) {
    for (size_t t = 0; t < count; t++)
        if (excluded[2 * t] != excluded[2 * t + 1]) return true;
    return false;
}

static void upload_inputs(Llama3 *m, const Batch *batch, size_t N, bool excluding) {
    DeviceBatch *b = &m->batch;
    b->excluded = excluding ? b->all_excluded : NULL;
    b->masked = excluding || has_documents(batch->doc_start, N);
    upload(m, b->tokens, batch->tokens, N);
    upload(m, b->doc_start, batch->doc_start, N);
    if (excluding) upload(m, b->all_excluded, batch->excluded, 2 * N);
}

void llama3_upload_batch(Llama3 *m, int i) {
    const Batch *batch = llama3_batch(m, i);
    const size_t N = (size_t)num_positions(m);
    m->batch.last = i == m->shape.micro_batches - 1;
    upload_inputs(m, batch, N, m->shape.comparisons);
    upload(m, m->batch.targets, batch->targets, N);
    upload(m, m->batch.order, batch->order, N);
    if (m->shape.comparisons) llama3_upload_answers(m, i);
}

void llama3_upload_rows(Llama3 *m, int rows, int length) {
    const Batch *batch = llama3_batch(m, 0);
    const size_t N = (size_t)rows * (size_t)length;
    upload_inputs(m, batch, N, has_excluded(batch->excluded, N));
}

void llama3_upload_targets(Llama3 *m, const int32_t *positions, const int32_t *targets, int n) {
    upload(m, m->batch.order, positions, (size_t)n);
    upload(m, m->batch.targets, targets, (size_t)n);
}

void llama3_upload_text(Llama3 *m, const int32_t *tokens, int n) {
    m->batch.excluded = NULL;
    m->batch.masked = false;
    upload(m, m->batch.tokens, tokens, (size_t)n);
    cuda_check(cudaMemsetAsync(m->batch.doc_start, 0, (size_t)n * sizeof *m->batch.doc_start, m->stream));
}

// ---- from the device

void llama3_download(Llama3 *m, void *to, const void *from, size_t bytes) {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
}
