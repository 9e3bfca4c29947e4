#include "checkpoint/leftovers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { PIECE = 1 << 20 }; // bytes that are compared at a time

#define HEAD "lm_head.weight"
#define EMBEDDING "model.embed_tokens.weight"

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
        {"layers.", ": without model. in front: of a LlamaModel alone: save LlamaForCausalLM"},
        {"embed_tokens.", ": without model. in front: of a LlamaModel alone: save LlamaForCausalLM"},
        {"tok_embeddings.", ": these are Meta's names: transformers' convert_llama_weights_to_hf.py gives the others"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(name, known[i].prefix, strlen(known[i].prefix)) == 0) return known[i].what;
    return strstr(name, "._orig_mod.") ? ": _orig_mod. is torch.compile's: save the model that was compiled" : "";
}

int leftovers_fail(const char *folder, int count, const char *first, Error *err) {
    return fail_input(err, "%.300s: %d tensors that the model has not, first %.100s%s", folder, count, first,
                      leftovers_explain(first));
}

// ---- a tied model's head

int leftovers_check_head(SafetensorsReader *reader, const LlamaConfig *config, Error *err) {
    const SafetensorsTensor *head = safetensors_find(reader, HEAD), *embedding = safetensors_find(reader, EMBEDDING);
    if (!config->tie_word_embeddings || !head || !embedding) return 0;
    const uint64_t all = safetensors_tensor_bytes(head);
    bool same = head->type == embedding->type && all == safetensors_tensor_bytes(embedding);
    for (uint64_t first = 0; same && first < all; first += PIECE) {
        const size_t count = all - first < PIECE ? (size_t)(all - first) : PIECE;
        const void *one = NULL, *other = NULL;
        int code = safetensors_view(reader, head, first, count, &one, err);
        if (!code) code = safetensors_view(reader, embedding, first, count, &other, err);
        if (code) return code;
        same = memcmp(one, other, count) == 0;
        safetensors_release(reader, head, first, count);
        safetensors_release(reader, embedding, first, count);
    }
    if (same) return 0;
    return fail_input(err,
                      "%s: tensor lm_head.weight differs from model.embed_tokens.weight, expected the same, as "
                      "tie_word_embeddings is true (false: two matrices)",
                      safetensors_path(reader, head));
}

// ---- the rule

static bool is_one_of(const char *text, const char *const *list) {
    for (; *list; list++)
        if (strcmp(text, *list) == 0) return true;
    return false;
}

static bool is_in_layer(const LlamaConfig *config, const char *name) {
    static const char *const parts[] = {"input_layernorm.weight",  "self_attn.q_proj.weight",
                                        "self_attn.k_proj.weight", "self_attn.v_proj.weight",
                                        "self_attn.o_proj.weight", "post_attention_layernorm.weight",
                                        "mlp.gate_proj.weight",    "mlp.up_proj.weight",
                                        "mlp.down_proj.weight",    NULL};
    char number[16];
    const size_t length = strspn(name, "0123456789");
    if (length == 0 || length > 9 || name[length] != '.') return false;
    const long layer = strtol(name, NULL, 10);
    snprintf(number, sizeof number, "%ld", layer);
    return strlen(number) == length && layer < config->num_hidden_layers && is_one_of(name + length + 1, parts);
}

static bool is_ours(const LlamaConfig *config, const char *name) {
    static const char layers[] = "model.layers.";
    static const char *const always[] = {EMBEDDING, "model.norm.weight", NULL};
    if (strncmp(name, layers, sizeof layers - 1) == 0) return is_in_layer(config, name + sizeof layers - 1);
    const char *head = config->num_labels ? "score.weight" : config->tie_word_embeddings ? NULL : HEAD;
    return is_one_of(name, always) || (head && strcmp(name, head) == 0);
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
    return code || !extra ? code : leftovers_fail(folder, extra, first, err);
}

void leftovers_tell(const Leftovers *dropped, const char *folder) {
    if (!dropped->buffers && !dropped->head) return;
    printf("left out of %s:", folder);
    if (dropped->buffers) printf(" %d rotary_emb.inv_freq, which the configuration gives", dropped->buffers);
    printf("%s\n", !dropped->head     ? ""
                   : dropped->buffers ? ", and lm_head.weight, the embedding again"
                                      : " lm_head.weight, the embedding again");
}
