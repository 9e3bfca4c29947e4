// The opening half of merge.h.
#include "checkpoint/merge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checksums.h"
#include "checkpoint/merge_internal.h"
#include "checkpoint/store.h"
#include "data/tokenizer.h"

#define HEAD "lm_head.weight"
#define SCORE "score.weight"
#define EMBEDDING "model.embed_tokens.weight"
#define WEIGHT ".weight"

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
    int code = store_path(path, m->spec->adapter, "tokenizer.json", err);
    if (code || !model_folder_has(m->spec->adapter, "tokenizer.json") || tokenizer_open(&tokenizer, path, &unread))
        return code;
    const int size = tokenizer_vocab_size(tokenizer);
    tokenizer_close(tokenizer);
    if (size <= m->config.vocab_size) return 0;
    return fail_input(err, "%.300s: has %d tokens, expected at most vocab_size (%d) of %.300s", path, size,
                      m->config.vocab_size, m->base_config);
}

static int open_models(Merge *m, Error *err) {
    int code = merge_read_config(&m->fields, m->spec->adapter, err);
    if (!code) code = find_base(m, err);
    if (code) return code;
    const char *const inputs[] = {m->spec->adapter, m->base_folder};
    code = model_folder_check(&merge_maker, m->spec->output, inputs, 2, m->spec->overwrite, err);
    if (!code) code = store_path(m->base_config, m->base_folder, "config.json", err);
    if (!code) code = llama_config_read(&m->config, m->base_config, err);
    if (!code) code = choose_kind(m, err);
    if (!code) code = check_vocabulary(m, err);
    if (!code) code = safetensors_open_model(&m->base, m->base_folder, err);
    if (!code) code = model_open_adapter(&m->adapter, m->spec->adapter, err);
    for (int i = 0; !code && i < 2; i++) code = checksums_verify_weights(inputs[i], err);
    return code;
}

// ---- the tensors of the output

static void add_part(Merge *m, const SafetensorsTensor *base, const SafetensorsTensor *tensor, const char *file) {
    m->parts[m->count] = (MergePart){.base = base};
    m->tensors[m->count++] = (ModelTensor){*tensor, file};
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
        const bool dropped = m->becomes_reward && (strcmp(tensor->name, HEAD) == 0 || strcmp(tensor->name, SCORE) == 0);
        if (!dropped) add_part(m, tensor, tensor, model_file_of(m->base, tensor));
    }
    if (!m->becomes_reward || m->count == 0) return 0; // nothing but heads: the adapter does not fit
    const SafetensorsTensor score = {SCORE, SAFETENSORS_F32, 2, {1, m->config.hidden_size, 1, 1}};
    add_part(m, NULL, &score, m->tensors[m->count - 1].file);
    return 0;
}

static int find_part(const Merge *m, const char *name, size_t length) {
    for (int t = 0; t < m->count; t++) {
        const char *known = m->tensors[t].tensor.name;
        if (strncmp(known, name, length) == 0 && known[length] == 0) return t;
    }
    return -1;
}

// ---- what the adapter has

static bool ends_with(const char *name, const char *end) {
    const size_t length = strlen(name), size = strlen(end);
    return length > size && strcmp(name + length - size, end) == 0;
}

static int fail_tensor(const Merge *m, const SafetensorsTensor *tensor, const char *expected, Error *err) {
    return fail_input(err, "%.300s: tensor \"%.120s\" found, expected %s", safetensors_path(m->adapter, tensor),
                      tensor->name, expected);
}

static int fail_no_place(const Merge *m, const SafetensorsTensor *tensor, const char *module, size_t length,
                         Error *err) {
    return fail_input(err, "%.300s: tensor \"%.120s\" found, but %.300s has no \"%.*s" WEIGHT "\": expected its base",
                      safetensors_path(m->adapter, tensor), tensor->name, m->base_folder,
                      (int)(length < 120 ? length : 120), module);
}

// The matrix is the embedding's and the head's at once: the adapter's would be for one of them.
static int check_tied(const Merge *m, const SafetensorsTensor *tensor, int t, Error *err) {
    const char *name = m->tensors[t].tensor.name;
    const bool shared = strcmp(name, EMBEDDING) == 0 || strcmp(name, HEAD) == 0;
    if (!shared || !m->config.tie_word_embeddings || m->config.num_labels) return 0;
    return fail_input(err, "%.300s: tie_word_embeddings is true, expected false, as %.300s has a tensor \"%.120s\"",
                      m->base_config, m->spec->adapter, tensor->name);
}

// module: its name in the base, of so many bytes.
static int take_into(Merge *m, const SafetensorsTensor *tensor, const char *module, size_t length,
                     const SafetensorsTensor **place_of(MergePart *), Error *err) {
    char name[512];
    if (snprintf(name, sizeof name, "%.*s" WEIGHT, (int)length, module) >= (int)sizeof name)
        return fail_tensor(m, tensor, "a shorter name", err);
    const int t = find_part(m, name, strlen(name));
    if (t < 0) return fail_no_place(m, tensor, module, length, err);
    *place_of(&m->parts[t]) = tensor;
    return check_tied(m, tensor, t, err);
}

static const SafetensorsTensor **place_a(MergePart *part) { return &part->a; }
static const SafetensorsTensor **place_b(MergePart *part) { return &part->b; }
static const SafetensorsTensor **place_whole(MergePart *part) { return &part->whole; }

static int take_half(Merge *m, const SafetensorsTensor *tensor, const char *name, bool is_a, Error *err) {
    const size_t length = strlen(name) - strlen(".lora_A.weight");
    if (merge_named(m->fields.targets, name, length) < 0)
        return fail_tensor(m, tensor, "tensors of target_modules", err);
    return take_into(m, tensor, name, length, is_a ? place_a : place_b, err);
}

// PEFT saves embedding and head unasked where the vocabulary grew.
static int take_whole(Merge *m, const SafetensorsTensor *tensor, const char *name, Error *err) {
    if (!ends_with(name, WEIGHT)) return fail_tensor(m, tensor, "lora_A.weight, lora_B.weight and whole weights", err);
    const size_t length = strlen(name) - strlen(WEIGHT);
    const bool vocabulary = strcmp(name, EMBEDDING) == 0 || strcmp(name, HEAD) == 0;
    if (!vocabulary && merge_named(m->fields.saved, name, length) < 0)
        return fail_tensor(m, tensor, "those of target_modules and modules_to_save", err);
    return take_into(m, tensor, name, length, place_whole, err);
}

static int take_tensor(Merge *m, const SafetensorsTensor *tensor, Error *err) {
    const size_t prefix = strlen(ADAPTER_PREFIX);
    const char *name = tensor->name + prefix;
    if (strncmp(tensor->name, ADAPTER_PREFIX, prefix) != 0)
        return fail_tensor(m, tensor, "names that begin with " ADAPTER_PREFIX, err);
    if (strstr(name, ".lora_embedding_")) return fail_tensor(m, tensor, "none of an embedding: not supported", err);
    if (ends_with(name, ".lora_A.weight")) return take_half(m, tensor, name, true, err);
    if (ends_with(name, ".lora_B.weight")) return take_half(m, tensor, name, false, err);
    if (strstr(name, ".lora_")) return fail_tensor(m, tensor, "lora_A.weight and lora_B.weight alone", err);
    return take_whole(m, tensor, name, err);
}

// ---- whether all is there, in its shape

static int check_shape(const Merge *m, int t, const SafetensorsTensor *tensor, SafetensorsTensor expected, Error *err) {
    char found[MODEL_SHAPE_TEXT], wanted[MODEL_SHAPE_TEXT], base[MODEL_SHAPE_TEXT];
    model_print_shape(found, tensor);
    model_print_shape(wanted, &expected);
    model_print_shape(base, &m->tensors[t].tensor);
    if (strcmp(found, wanted) == 0) return 0;
    return fail_input(err,
                      "%.300s: tensor \"%.120s\": shape is %s, expected %s: r is %d, and \"%.120s\" of %.300s is %s",
                      safetensors_path(m->adapter, tensor), tensor->name, found, wanted, m->fields.rank,
                      m->tensors[t].tensor.name, m->base_folder, base);
}

static int fail_missing(const Merge *m, int t, const char *end, const char *why, Error *err) {
    const char *name = m->tensors[t].tensor.name;
    // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): list_parts has set the names
    const int length = (int)(strlen(name) - strlen(WEIGHT));
    return fail_input(err, "%.300s: tensor \"" ADAPTER_PREFIX "%.*s%s\" is missing, expected it as %s",
                      m->spec->adapter, length < 120 ? length : 120, name, end, why);
}

static int check_pair(const Merge *m, int t, Error *err) {
    const MergePart *part = &m->parts[t];
    const SafetensorsTensor *like = &m->tensors[t].tensor;
    if (!part->base)
        return fail_missing(m, t, WEIGHT, "the base is a language model, and the adapter changes that weight", err);
    if (!part->a) return fail_missing(m, t, ".lora_A.weight", "there is lora_B.weight", err);
    if (!part->b) return fail_missing(m, t, ".lora_B.weight", "there is lora_A.weight", err);
    if (part->whole || like->dims != 2)
        return fail_tensor(m, part->a, part->whole ? "none beside the whole weight" : "none: the base's is no matrix",
                           err);
    SafetensorsTensor a = {.dims = 2, .shape = {m->fields.rank, like->shape[1], 1, 1}};
    SafetensorsTensor b = {.dims = 2, .shape = {like->shape[0], m->fields.rank, 1, 1}};
    int code = check_shape(m, t, part->a, a, err);
    return code ? code : check_shape(m, t, part->b, b, err);
}

// What the adapter does not have, it must not name.
static int check_untouched(const Merge *m, int t, Error *err) {
    const char *name = m->tensors[t].tensor.name;
    if (!m->parts[t].base)
        return fail_missing(m, t, WEIGHT, "the base is a language model, and task_type SEQ_CLS", err);
    if (!ends_with(name, WEIGHT)) return 0;
    const size_t length = strlen(name) - strlen(WEIGHT);
    if (merge_named(m->fields.saved, name, length) >= 0)
        return fail_missing(m, t, WEIGHT, "modules_to_save names it", err);
    if (!m->fields.everywhere || merge_named(m->fields.targets, name, length) < 0) return 0;
    return fail_missing(m, t, ".lora_A.weight", "target_modules names it", err);
}

static int check_parts(const Merge *m, Error *err) {
    int code = 0;
    for (int t = 0; !code && t < m->count; t++) {
        const MergePart *part = &m->parts[t];
        if (part->a || part->b)
            code = check_pair(m, t, err);
        else if (part->whole)
            code = check_shape(m, t, part->whole, m->tensors[t].tensor, err);
        else
            code = check_untouched(m, t, err);
    }
    return code;
}

static bool has_module(const Merge *m, const char *target) {
    cJSON only = {.type = cJSON_String, .valuestring = (char *)target}, list = {.type = cJSON_Array, .child = &only};
    for (int t = 0; t < m->count; t++) {
        const char *name = m->tensors[t].tensor.name;
        const bool touched = m->parts[t].a || m->parts[t].whole;
        if (touched && ends_with(name, WEIGHT) && merge_named(&list, name, strlen(name) - strlen(WEIGHT)) == 0)
            return true;
    }
    return false;
}

static int check_targets(const Merge *m, Error *err) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, m->fields.targets) {
        if (has_module(m, item->valuestring)) continue;
        return fail_input(err, "%.300s: target_modules has \"%.120s\", of which %.300s has no tensors, expected some",
                          m->fields.path, item->valuestring,
                          safetensors_path(m->adapter, safetensors_at(m->adapter, 0)));
    }
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
    for (int i = 0; !code && i < safetensors_count(m->adapter); i++)
        code = take_tensor(m, safetensors_at(m->adapter, i), err);
    if (!code) code = check_parts(m, err);
    if (!code) code = check_targets(m, err);
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

const char *merge_base(const Merge *m) { return m->base_folder; }
int merge_rank(const Merge *m) { return m->fields.rank; }
double merge_scale(const Merge *m) { return m->fields.scale; }
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
