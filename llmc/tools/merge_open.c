// The opening half of merge.h.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/path.h"
#include "checkpoint/checksums.h"
#include "loader/tokenizer.h"
#include "tools/merge.h"
#include "tools/merge_internal.h"

const ModelMaker merge_maker = {"merge_lora", MERGE_MARK, "merge", "input", "the merged model"};

// ---- the two models

static int find_base(Merge *m, Error *err) {
    struct stat status;
    m->base_folder = m->spec->base ? m->spec->base : m->fields.base;
    if (m->spec->base) return 0;
    if (!m->base_folder)
        return fail_input(err, "%s: base_model_name_or_path is absent, expected a folder, or --base DIR",
                          m->fields.path);
    if (stat(m->base_folder, &status) == 0 && S_ISDIR(status.st_mode)) return 0;
    return fail_input(err,
                      "%.300s: base_model_name_or_path is \"%.300s\", which is no folder here: expected --base DIR",
                      m->fields.path, m->base_folder);
}

// Which of the two kinds of models comes out.
static int choose_kind(Merge *m, Error *err) {
    const bool reward = m->config.num_labels != 0;
    if (m->fields.task == TASK_LANGUAGE_MODEL && reward)
        return fail_input(err,
                          "%.300s: task_type is \"CAUSAL_LM\", expected \"SEQ_CLS\", as %.300s is of a reward model",
                          m->fields.path, m->base_config);
    m->becomes_reward = m->fields.task == TASK_REWARD_MODEL && !reward;
    if (m->becomes_reward) m->config.num_labels = 1;
    return 0;
}

// Tokens that the adapter's tokenizer added have no rows in this base. Where it is not a tokenizer of ours, nothing is known.
static int check_vocabulary(const Merge *m, Error *err) {
    char path[PATH_MAX];
    Tokenizer *tokenizer = NULL;
    Error unread = {0};
    int code = path_join(path, m->spec->adapter, "tokenizer.json", err);
    if (code || !model_folder_has(m->spec->adapter, "tokenizer.json") || tokenizer_open(&tokenizer, path, &unread))
        return code;
    const int size = tokenizer_vocab_size(tokenizer);
    tokenizer_close(tokenizer);
    if (size <= m->config.vocab_size) return 0;
    return fail_input(err, "%.300s: has %d tokens, expected at most vocab_size (%d) of %.300s", path, size,
                      m->config.vocab_size, m->base_config);
}

// As the base is, which may become another kind of model.
static int drop_leftovers(Merge *m, Error *err) {
    LlamaConfig config = m->config;
    if (m->becomes_reward) config.num_labels = 0;
    return leftovers_drop(&m->dropped, m->base, m->base_folder, &config, err);
}

static int open_models(Merge *m, Error *err) {
    int code = merge_read_config(&m->fields, m->spec->adapter, err);
    if (!code) code = find_base(m, err);
    if (code) return code;
    const char *const inputs[] = {m->spec->adapter, m->base_folder};
    code = model_folder_check(&merge_maker, m->spec->output, inputs, 2, m->spec->overwrite, err);
    if (!code) code = path_join(m->base_config, m->base_folder, "config.json", err);
    if (!code) code = llama_config_read(&m->config, m->base_config, err);
    if (!code) code = choose_kind(m, err);
    if (!code) code = check_vocabulary(m, err);
    if (!code) code = safetensors_open_model(&m->base, m->base_folder, err);
    if (!code) code = drop_leftovers(m, err);
    if (!code) code = model_open_adapter(&m->adapter, m->spec->adapter, err);
    for (int i = 0; !code && i < 2; i++) code = checksums_verify_weights(inputs[i], err);
    return code;
}

// ---- the tensors of the output

static void add_part(Merge *m, const SafetensorsTensor *base, const SafetensorsTensor *tensor, const char *file) {
    m->parts[m->count] = (MergePart){.base = base};
    m->tensors[m->count++] = (ModelTensor){*tensor, file};
}

// A tied model whose embedding or head has an adapter of its own gets a head, which begins as the embedding.
static int add_head(Merge *m, Error *err) {
    const SafetensorsTensor *embedding = safetensors_find(m->base, EMBEDDING);
    if (!embedding) return fail_input(err, "%s: tensor " EMBEDDING " is missing", m->base_folder);
    SafetensorsTensor head = *embedding;
    head.name = HEAD;
    add_part(m, embedding, &head, model_file_of(m->base, embedding));
    m->config.tie_word_embeddings = false;
    return 0;
}

// The base's; of one that becomes a reward model without its head, and with a score.
static int list_parts(Merge *m, Error *err) {
    const int count = safetensors_count(m->base);
    if (count == 0) return fail_input(err, "%s: has no tensors, expected some", m->base_folder);
    m->parts = calloc((size_t)count + 1, sizeof *m->parts);
    m->tensors = calloc((size_t)count + 1, sizeof *m->tensors);
    if (!m->parts || !m->tensors) return fail_fault(err, "%s: no memory for %d tensors", m->base_folder, count);
    for (int t = 0; t < count; t++) {
        const SafetensorsTensor *tensor = safetensors_at(m->base, t);
        if (!m->becomes_reward || strcmp(tensor->name, HEAD) != 0)
            add_part(m, tensor, tensor, model_file_of(m->base, tensor));
    }
    m->unties = merge_unties(m);
    if (m->unties) return add_head(m, err);
    if (!m->becomes_reward || m->count == 0) return 0; // nothing but heads: the adapter does not fit
    const SafetensorsTensor score = {SCORE, SAFETENSORS_F32, 2, {1, m->config.hidden_size, 1, 1}};
    add_part(m, NULL, &score, m->tensors[m->count - 1].file);
    return 0;
}

static void finish_parts(Merge *m) {
    for (int t = 0; t < m->count; t++) {
        const MergePart *part = &m->parts[t];
        SafetensorsTensor *tensor = &m->tensors[t].tensor;
        tensor->type = model_type_of(m->spec->type, part->base ? part->base->type : part->whole->type);
        m->write_bytes += safetensors_tensor_bytes(tensor);
        m->read_bytes += safetensors_tensor_bytes(part->whole ? part->whole : part->base);
        if (part->a) m->read_bytes += safetensors_tensor_bytes(part->a) + safetensors_tensor_bytes(part->b);
    }
}

static int open_all(Merge *m, Error *err) {
    int code = open_models(m, err);
    if (!code) code = list_parts(m, err);
    if (!code && safetensors_count(m->adapter) == 0)
        code = fail_input(err, "%s: adapter_model.safetensors has no tensors, expected some", m->spec->adapter);
    if (!code) code = merge_take_adapter(m, err);
    if (!code) finish_parts(m);
    return code;
}

int merge_open(Merge **out, const MergeSpec *spec, Error *err) {
    Merge *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "%s: no memory", spec->output);
    m->spec = spec;
    int code = open_all(m, err);
    if (code)
        merge_close(m);
    else
        *out = m;
    return code;
}

static int count_parts(const Merge *m, bool whole) {
    int found = 0;
    for (int t = 0; t < m->count; t++) found += (whole ? m->parts[t].whole : m->parts[t].a) != NULL;
    return found;
}

const Leftovers *merge_dropped(const Merge *m) { return &m->dropped; }
const char *merge_base(const Merge *m) { return m->base_folder; }

MergeRange merge_ranks(const Merge *m) {
    MergeRange range = {0, 0};
    for (int t = 0; t < m->count; t++) {
        const double rank = m->parts[t].rank; // 0: no pair
        if (rank > 0 && (rank < range.least || range.least == 0)) range.least = rank;
        if (rank > range.most) range.most = rank;
    }
    return range;
}

MergeRange merge_scales(const Merge *m) {
    MergeRange range = {INFINITY, -INFINITY};
    for (int t = 0; t < m->count; t++) {
        if (!m->parts[t].a) continue;
        range.least = fmin(range.least, m->parts[t].scale);
        range.most = fmax(range.most, m->parts[t].scale);
    }
    return range;
}

bool merge_unties_head(const Merge *m) { return m->unties; }

int merge_num_ignored(const Merge *m, const char **field) {
    *field = m->ignored;
    return m->num_ignored;
}

int merge_num_tensors(const Merge *m) { return m->count; }
int merge_num_pairs(const Merge *m) { return count_parts(m, false); }
int merge_num_whole(const Merge *m) { return count_parts(m, true); }
uint64_t merge_read_bytes(const Merge *m) { return m->read_bytes; }
uint64_t merge_write_bytes(const Merge *m) { return m->write_bytes; }

void merge_close(Merge *m) {
    if (!m) return;
    safetensors_close(m->base);
    safetensors_close(m->adapter);
    cJSON_Delete(m->fields.json);
    free(m->parts);
    free(m->tensors);
    free(m);
}
