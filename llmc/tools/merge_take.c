// What an adapter's file has, and where it belongs.
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "tools/merge_internal.h"

static int fail_tensor(const Merge *m, const SafetensorsTensor *tensor, const char *expected, Error *err) {
    return fail_input(err, "%.300s: tensor \"%.120s\" found, expected %s", safetensors_path(m->adapter, tensor),
                      tensor->name, expected);
}

// ---- kinds of tensors

// SAVED, ORIGINAL: beside a WHOLE of modules_to_save where PEFT was asked for embedding and head (or the vocabulary grew).
typedef enum { HALF_A, HALF_B, LOOKUP_A, LOOKUP_B, BASE_LAYER, SAVED, ORIGINAL, WHOLE, NUM_KINDS } Kind;

static const char *const ends[NUM_KINDS] = {
    [HALF_A] = ".lora_A.weight",
    [HALF_B] = ".lora_B.weight",
    [LOOKUP_A] = ".lora_embedding_A",
    [LOOKUP_B] = ".lora_embedding_B",
    [BASE_LAYER] = ".base_layer.weight",
    [SAVED] = ".modules_to_save.weight",
    [ORIGINAL] = ".original_module.weight",
    [WHOLE] = WEIGHT,
};

// module = the name in the base of what the tensor belongs to. NUM_KINDS: none that is known.
static Kind kind_of(char module[MODULE_NAME], const SafetensorsTensor *tensor) {
    const char *name = tensor->name + strlen(ADAPTER_PREFIX);
    for (int k = 0; k < NUM_KINDS; k++) {
        if (!text_ends_with(name, ends[k]) || (k == WHOLE && strstr(name, ".lora_"))) continue;
        const int length = (int)(strlen(name) - strlen(ends[k]));
        if (length == 0 || length >= MODULE_NAME - (int)sizeof WEIGHT) break;
        snprintf(module, MODULE_NAME, "%.*s", length, name);
        return (Kind)k;
    }
    return NUM_KINDS;
}

static bool has_prefix(const SafetensorsTensor *tensor) {
    return strncmp(tensor->name, ADAPTER_PREFIX, strlen(ADAPTER_PREFIX)) == 0;
}

static bool is_head(const char *module) { return strcmp(module, "lm_head") == 0; }
static bool is_vocabulary(const char *module) { return is_head(module) || strcmp(module, "model.embed_tokens") == 0; }

static bool is_tied(const Merge *m) { return m->config.tie_word_embeddings && !m->config.num_labels; }

bool merge_unties(const Merge *m) {
    char module[MODULE_NAME];
    for (int i = 0; is_tied(m) && !m->fields.tying && i < safetensors_count(m->adapter); i++) {
        const SafetensorsTensor *tensor = safetensors_at(m->adapter, i);
        const Kind kind = has_prefix(tensor) ? kind_of(module, tensor) : NUM_KINDS;
        if (kind == NUM_KINDS || !is_vocabulary(module)) continue;
        if (kind < BASE_LAYER || merge_is_saved(&m->fields, module)) return true;
    }
    return false;
}

// ---- their places

static MergePart *find_part(const Merge *m, const char *module) {
    const size_t length = strlen(module);
    for (int t = 0; t < m->count; t++) {
        const char *known = m->tensors[t].tensor.name;
        if (strncmp(known, module, length) == 0 && strcmp(known + length, WEIGHT) == 0) return &m->parts[t];
    }
    return NULL;
}

static int take_pair(Merge *m, MergePart *part, const SafetensorsTensor *tensor, const char *module, Kind kind,
                     Error *err) {
    const bool lookup = kind == LOOKUP_A || kind == LOOKUP_B;
    const bool embedding = strcmp(module, "model.embed_tokens") == 0;
    if (lookup != embedding)
        return fail_tensor(m, tensor, embedding ? "lora_embedding_A and lora_embedding_B" : "lora_A and lora_B", err);
    part->embedding = embedding;
    part->rank = merge_module_rank(&m->fields, module);
    part->scale = merge_module_scale(&m->fields, module);
    *(kind == HALF_A || kind == LOOKUP_A ? &part->a : &part->b) = tensor;
    return 0;
}

// PEFT loads what its configuration selects, and nothing of other modules.
static int leave_out(Merge *m, const SafetensorsTensor *tensor, const char *field, Error *err) {
    if (strcmp(field, "target_modules") == 0) return fail_tensor(m, tensor, "tensors of target_modules", err);
    if (strcmp(field, "modules_to_save") == 0)
        return fail_tensor(m, tensor, "none beside the whole weight, as modules_to_save names it", err);
    if (m->num_ignored++ == 0) m->ignored = field;
    return 0;
}

static int fail_unselected(const Merge *m, const SafetensorsTensor *tensor, Error *err) {
    return fail_tensor(m, tensor, "those of target_modules and modules_to_save", err);
}

// PEFT saves embedding and head unasked where the vocabulary grew; what a pair of theirs is added to, too.
static int take_whole(Merge *m, MergePart *part, const SafetensorsTensor *tensor, const char *module, Kind kind,
                      Error *err) {
    const bool saved = merge_is_saved(&m->fields, module);
    if (kind == WHOLE && !saved && !is_vocabulary(module)) return fail_unselected(m, tensor, err);
    part->whole = tensor;
    part->base_layer = kind == BASE_LAYER;
    if (!m->unties || saved || !is_vocabulary(module)) return 0;
    MergePart *other = find_part(m, is_head(module) ? "model.embed_tokens" : "lm_head"); // the base's one matrix
    if (other->whole || merge_is_saved(&m->fields, is_head(module) ? "model.embed_tokens" : "lm_head")) return 0;
    other->whole = tensor;
    other->base_layer = true;
    return 0;
}

static int fail_foreign(const Merge *m, const SafetensorsTensor *tensor, Error *err) {
    return fail_input(err, "%.300s: tensor \"%.120s\" found, expected names that begin with " ADAPTER_PREFIX "%s",
                      safetensors_path(m->adapter, tensor), tensor->name, leftovers_explain(tensor->name));
}

static int fail_no_place(const Merge *m, const SafetensorsTensor *tensor, const char *module, Error *err) {
    return fail_input(
        err, "%.300s: tensor \"%.120s\" found, but %.300s has no \"%.120s" WEIGHT "\": expected its base%s",
        safetensors_path(m->adapter, tensor), tensor->name, m->base_folder, module, leftovers_explain(module));
}

static int take_tensor(Merge *m, const SafetensorsTensor *tensor, Error *err) {
    char module[MODULE_NAME];
    if (!has_prefix(tensor)) return fail_foreign(m, tensor, err);
    const Kind kind = kind_of(module, tensor);
    if (kind == NUM_KINDS) return fail_tensor(m, tensor, "lora_A.weight, lora_B.weight and whole weights alone", err);
    const bool tied = is_tied(m) && !m->unties;
    if (tied && is_head(module) && m->fields.tying) return 0; // the embedding's again
    MergePart *part = find_part(m, tied && is_head(module) ? "model.embed_tokens" : module);
    if (!part) return fail_no_place(m, tensor, module, err);
    if (kind == SAVED || kind == ORIGINAL) // of which PEFT reads neither
        return merge_is_saved(&m->fields, module) ? 0 : fail_unselected(m, tensor, err);
    if (kind == WHOLE) return take_whole(m, part, tensor, module, kind, err);
    const char *field = merge_leaves_out(&m->fields, module);
    if (field) return leave_out(m, tensor, field, err);
    return kind == BASE_LAYER ? take_whole(m, part, tensor, module, kind, err)
                              : take_pair(m, part, tensor, module, kind, err);
}

// ---- whether all is there, in its shape

static int check_shape(const Merge *m, int t, const SafetensorsTensor *tensor, SafetensorsTensor expected, Error *err) {
    char found[MODEL_SHAPE_TEXT], wanted[MODEL_SHAPE_TEXT], base[MODEL_SHAPE_TEXT];
    model_print_shape(found, tensor);
    model_print_shape(wanted, &expected);
    model_print_shape(base, &m->tensors[t].tensor);
    if (strcmp(found, wanted) == 0) return 0;
    return fail_input(
        err, "%.300s: tensor \"%.120s\": shape is %s, expected %s: r is %d, and \"%.120s\" of %.300s is %s",
        safetensors_path(m->adapter, tensor), tensor->name, found, wanted,
        m->parts[t].rank ? m->parts[t].rank : m->fields.rank, m->tensors[t].tensor.name, m->base_folder, base);
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
    const int first = part->embedding ? LOOKUP_A : HALF_A;
    if (!part->base)
        return fail_missing(m, t, WEIGHT, "the base is a language model, and the adapter changes that weight", err);
    if (!part->a)
        return fail_missing(m, t, ends[first], first == HALF_A ? "there is lora_B.weight" : "there is lora_embedding_B",
                            err);
    if (!part->b)
        return fail_missing(m, t, ends[first + 1],
                            first == HALF_A ? "there is lora_A.weight" : "there is lora_embedding_A", err);
    if (part->whole && !part->base_layer) return fail_tensor(m, part->a, "none beside the whole weight", err);
    if (like->dims != 2) return fail_tensor(m, part->a, "none: the base's is no matrix", err);
    const int64_t in = like->shape[part->embedding ? 0 : 1], out = like->shape[part->embedding ? 1 : 0];
    int code = check_shape(m, t, part->a, (SafetensorsTensor){.dims = 2, .shape = {part->rank, in, 1, 1}}, err);
    return code ? code
                : check_shape(m, t, part->b, (SafetensorsTensor){.dims = 2, .shape = {out, part->rank, 1, 1}}, err);
}

// What the adapter does not have, its configuration must not select.
static int check_untouched(const Merge *m, int t, Error *err) {
    char module[MODULE_NAME];
    const char *name = m->tensors[t].tensor.name;
    if (!m->parts[t].base)
        return fail_missing(m, t, WEIGHT, "the base is a language model, and task_type SEQ_CLS", err);
    if (!text_ends_with(name, WEIGHT) || strlen(name) >= sizeof module) return 0;
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(WEIGHT)), name);
    if (merge_is_saved(&m->fields, module)) return fail_missing(m, t, WEIGHT, "modules_to_save names it", err);
    if (m->tensors[t].tensor.dims != 2 || merge_leaves_out(&m->fields, module)) return 0;
    const bool lookup = strcmp(module, "model.embed_tokens") == 0;
    return fail_missing(m, t, ends[lookup ? LOOKUP_A : HALF_A], "target_modules names it", err);
}

static int check_part(const Merge *m, int t, Error *err) {
    const MergePart *part = &m->parts[t];
    if (part->whole) {
        int code = check_shape(m, t, part->whole, m->tensors[t].tensor, err);
        if (code) return code;
    }
    if (part->a || part->b) return check_pair(m, t, err);
    return part->whole && !part->base_layer ? 0 : check_untouched(m, t, err);
}

// With ensure_weight_tying a tied model's head is passed over, as the embedding has the same.
static int check_tying(const Merge *m, Error *err) {
    char module[MODULE_NAME];
    const MergePart *embedding = find_part(m, "model.embed_tokens");
    if (!is_tied(m) || !m->fields.tying || !embedding || embedding->a || embedding->whole) return 0;
    for (int i = 0; i < safetensors_count(m->adapter); i++) {
        const SafetensorsTensor *tensor = safetensors_at(m->adapter, i);
        if (kind_of(module, tensor) != NUM_KINDS && is_head(module))
            return fail_tensor(m, tensor, "the embedding's beside it, as ensure_weight_tying is true", err);
    }
    return 0;
}

int merge_take_adapter(Merge *m, Error *err) {
    int code = 0;
    for (int i = 0; !code && i < safetensors_count(m->adapter); i++)
        code = take_tensor(m, safetensors_at(m->adapter, i), err);
    for (int t = 0; !code && t < m->count; t++) code = check_part(m, t, err);
    return code ? code : check_tying(m, err);
}
