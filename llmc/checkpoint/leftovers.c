#include "checkpoint/leftovers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "checkpoint/convert.h"

enum { PIECE = 1 << 18 }; // values that are compared at a time

#define HEAD "lm_head.weight"
#define EMBEDDING "model.embed_tokens.weight"
#define META ": these are Meta's names: transformers' convert_llama_weights_to_hf.py gives the others"

bool leftovers_is_buffer(const char *name) { return text_ends_with(name, ".rotary_emb.inv_freq"); }

// ---- prefixes

const char *leftovers_explain(const char *name) {
    static const struct {
        const char *prefix, *what;
    } known[] = {
        {"_orig_mod.", ": _orig_mod. is torch.compile's prefix: save the model that was compiled (model._orig_mod)"},
        {"module.", ": module. is the prefix of DataParallel and DDP: save the model within (model.module)"},
        {"_fsdp_wrapped_module.", ": _fsdp_wrapped_module. is FSDP's prefix: save a full state dict without it"},
        {"_forward_module.", ": _forward_module. is Lightning Fabric's prefix: save the module within"},
        {"base_model.model.", ": base_model.model. is PEFT's prefix: save what merge_and_unload() gives"},
        {"model.model.", ": model.model. is the prefix of a module around the model: save the model within (.model)"},
        {"model.module.", ": model.module. is the prefix of DataParallel and DDP: save the model within"},
        {"model._orig_mod.", ": _orig_mod. is torch.compile's prefix: save the model that was compiled"},
        {"model.lm_head.", ": model.lm_head. is the name in a module around the model: save the model within (.model)"},
        {"model.language_model.", ": model.language_model. is the text part of a model of images and text"},
        {"language_model.", ": language_model. is the text part of a model of images and text"},
        {"layers.0.attention.", META},
        {"layers.", ": without model. in front: of a LlamaModel alone: save LlamaForCausalLM"},
        {"embed_tokens.", ": without model. in front: of a LlamaModel alone: save LlamaForCausalLM"},
        {"tok_embeddings.", META},
        {"v_head.", ": v_head. is TRL's value head: save the model without it (.pretrained_model)"},
        {"pretrained_model.", ": pretrained_model. is TRL's prefix: save the model within (.pretrained_model)"},
    };
    // of modules within: activation checkpointing and LoRA wrap single ones
    static const struct {
        const char *part, *what;
    } inner[] = {
        {"._orig_mod.", ": _orig_mod. is torch.compile's: save the model that was compiled"},
        {"._fsdp_wrapped_module.", ": _fsdp_wrapped_module. is FSDP's: save a full state dict without it"},
        {"._checkpoint_wrapped_module.",
         ": _checkpoint_wrapped_module. is of activation checkpointing: save the model within"},
        {".base_layer.", ": base_layer. is PEFT's: save what merge_and_unload() gives"},
        {".lora_", ": lora_ is PEFT's: save what merge_and_unload() gives"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(name, known[i].prefix, strlen(known[i].prefix)) == 0) return known[i].what;
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++)
        if (strstr(name, inner[i].part)) return inner[i].what;
    return "";
}

int leftovers_fail(const char *folder, int count, const char *first, Error *err) {
    return fail_input(err, "%.300s: %d tensor%s that the model has not, first %.100s%s", folder, count,
                      count == 1 ? "" : "s", first, leftovers_explain(first));
}

int leftovers_fail_missing(const char *folder, int count, int all, const char *first, const char *first_extra,
                           Error *err) {
    return fail_input(err, "%.300s: %d of the model's %d tensors are missing, first %s%s", folder, count, all, first,
                      first_extra ? leftovers_explain(first_extra) : "");
}

// ---- a tied model's head

static int view(SafetensorsReader *reader, const SafetensorsTensor *tensor, size_t first, size_t count, float *values,
                Error *err) {
    const size_t size = safetensors_type_size(tensor->type);
    const void *raw = NULL;
    int code = safetensors_view(reader, tensor, first * size, count * size, &raw, err);
    if (code) return code;
    convert_to_f32(values, raw, tensor->type, count);
    safetensors_release(reader, tensor, first * size, count * size);
    return 0;
}

// Whether the two have the same values, of whatever types. values[2 * PIECE]: scratch.
static int compare(bool *same, SafetensorsReader *reader, const SafetensorsTensor *one, const SafetensorsTensor *other,
                   float *values, Error *err) {
    const size_t all = safetensors_elements(one);
    *same = all == safetensors_elements(other);
    for (size_t first = 0; *same && first < all; first += PIECE) {
        const size_t count = all - first < PIECE ? all - first : PIECE;
        int code = view(reader, one, first, count, values, err);
        if (!code) code = view(reader, other, first, count, values + PIECE, err);
        if (code) return code;
        *same = memcmp(values, values + PIECE, count * sizeof *values) == 0;
    }
    return 0;
}

int leftovers_check_head(SafetensorsReader *reader, const LlamaConfig *config, Error *err) {
    const SafetensorsTensor *head = safetensors_find(reader, HEAD), *embedding = safetensors_find(reader, EMBEDDING);
    if (!config->tie_word_embeddings || !head || !embedding) return 0;
    bool same = false;
    float *values = malloc(2 * PIECE * sizeof *values);
    if (!values) return fail_fault(err, "%s: no memory", safetensors_path(reader, head));
    int code = compare(&same, reader, head, embedding, values, err);
    free(values);
    if (code) return code;
    if (same) return 0;
    return fail_input(err,
                      "%s: tensor lm_head.weight differs from model.embed_tokens.weight, expected the same, as "
                      "tie_word_embeddings is true (false: two matrices)",
                      safetensors_path(reader, head));
}

// ---- the rule

enum { LAYER_PARTS = 9, NAME = 64 };

static const char *const layer_parts[LAYER_PARTS] = {
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight",    "mlp.up_proj.weight",
    "mlp.down_proj.weight",    "input_layernorm.weight",  "post_attention_layernorm.weight",
};

// NULL: tied
static const char *head_of(const LlamaConfig *config) {
    return config->num_labels ? "score.weight" : config->tie_word_embeddings ? NULL : HEAD;
}

// How many tensors a model of this configuration has; the name of each.
static int count_ours(const LlamaConfig *config) {
    return LAYER_PARTS * config->num_hidden_layers + 2 + (head_of(config) != NULL);
}

static void name_ours(char name[NAME], const LlamaConfig *config, int i) {
    const int layer = (i - 1) / LAYER_PARTS, last = 1 + LAYER_PARTS * config->num_hidden_layers;
    if (i == 0)
        snprintf(name, NAME, EMBEDDING);
    else if (i < last)
        snprintf(name, NAME, "model.layers.%d.%s", layer, layer_parts[(i - 1) % LAYER_PARTS]);
    else
        snprintf(name, NAME, "%s", i == last ? "model.norm.weight" : head_of(config));
}

static bool is_ours(const LlamaConfig *config, const char *name) {
    static const char layers[] = "model.layers.";
    char ours[NAME];
    const char *head = head_of(config);
    if (strcmp(name, EMBEDDING) == 0 || strcmp(name, "model.norm.weight") == 0) return true;
    if (strncmp(name, layers, sizeof layers - 1) != 0) return head && strcmp(name, head) == 0;
    const long layer = strtol(name + sizeof layers - 1, NULL, 10);
    for (int part = 0; layer >= 0 && layer < config->num_hidden_layers && part < LAYER_PARTS; part++) {
        name_ours(ours, config, 1 + (int)layer * LAYER_PARTS + part);
        if (strcmp(name, ours) == 0) return true;
    }
    return false;
}

static int check_missing(const SafetensorsReader *reader, const char *folder, const LlamaConfig *config,
                         const char *first_extra, Error *err) {
    int missing = 0;
    char name[NAME], first[NAME];
    for (int i = count_ours(config) - 1; i >= 0; i--) {
        name_ours(name, config, i);
        if (safetensors_find(reader, name)) continue;
        missing++;
        memcpy(first, name, NAME);
    }
    return missing ? leftovers_fail_missing(folder, missing, count_ours(config), first, first_extra, err) : 0;
}

int leftovers_drop(Leftovers *dropped, SafetensorsReader *reader, const char *folder, const LlamaConfig *config,
                   Error *err) {
    int extra = 0;
    const char *first = NULL;
    *dropped = (Leftovers){0};
    int code = config->num_labels ? 0 : leftovers_check_head(reader, config, err);
    for (int t = safetensors_count(reader) - 1; !code && t >= 0; t--) {
        const char *name = safetensors_at(reader, t)->name;
        const bool buffer = leftovers_is_buffer(name);
        const bool head = config->tie_word_embeddings && !config->num_labels && strcmp(name, HEAD) == 0;
        dropped->buffers += buffer;
        dropped->head |= head;
        if (buffer || head) {
            safetensors_drop(reader, t);
        } else if (!is_ours(config, name)) {
            extra++;
            first = name;
        }
    }
    if (!code) code = check_missing(reader, folder, config, first, err);
    return code || !extra ? code : leftovers_fail(folder, extra, first, err);
}

void leftovers_print(const Leftovers *dropped, const char *folder) {
    if (!dropped->buffers && !dropped->head) return;
    printf("left out of %s:", folder);
    if (dropped->buffers) printf(" %d rotary_emb.inv_freq, which the configuration gives", dropped->buffers);
    printf("%s\n", !dropped->head     ? ""
                   : dropped->buffers ? ", and lm_head.weight, the embedding again"
                                      : " lm_head.weight, the embedding again");
}
