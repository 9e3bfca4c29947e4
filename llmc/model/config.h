// The model's configuration is a Hugging Face config.json of the Llama architecture; these are the fields of it that have
// an effect here.
#ifndef LLMC_MODEL_CONFIG_H
#define LLMC_MODEL_CONFIG_H

#include <stdbool.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { ROPE_DEFAULT, ROPE_LLAMA3 } RopeType;

enum { LLAMA_MAX_EOS_TOKENS = 16 };

typedef struct {
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers;
    int num_attention_heads, num_key_value_heads,
        head_dim; // head_dim: as given, else hidden_size / num_attention_heads
    int max_position_embeddings;
    float rms_norm_eps;
    double rope_theta;
    double initializer_range; // 0.02 where the file says nothing
    bool tie_word_embeddings;
    RopeType rope_type;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor; // ROPE_LLAMA3 only, else 0
    int rope_original_max_position;                                  // ROPE_LLAMA3 only, else 0
    int bos_token_id, eos_token_id; // -1: none. Of several end tokens the first; the others:
    int num_more_eos_tokens, more_eos_token_ids[LLAMA_MAX_EOS_TOKENS - 1];
    int pad_token_id; // -1: none; without influence on the model
    int num_labels;   // 0: a language model; 1: a reward model, whose head gives the last token's state one number
} LlamaConfig;

// Elements of a token's queries, keys and values side by side: (NH + 2 NKV) HD.
static inline int llama_config_qkv_width(const LlamaConfig *config) {
    return (config->num_attention_heads + 2 * config->num_key_value_heads) * config->head_dim;
}

// Reads the config.json of a language model (LlamaForCausalLM, or no architecture named) or of a reward model
// (LlamaForSequenceClassification of one label) at path, in the spelling of transformers 4 (rope_scaling, rope_theta) or 5
// (rope_parameters). A field that would change the model and that we do not implement (another architecture,
// biases, another activation or RoPE type, dropout, quantised weights) is refused by name, and so are mistyped and
// impossible fields, missing sizes and missing fields of a RoPE scaling. Fields without influence on the model
// are passed over. Where old files leave a field out, it has the value that transformers' LlamaConfig takes (rms_norm_eps
// 1e-6, rope_theta 10000, end token 2 and so on). Overwrites *config only on success. Errors: 2 (the file's
// content), 1 (it cannot be read).
int llama_config_read(LlamaConfig *config, const char *path, Error *err);

// Does this token end a text?
bool llama_config_is_end(const LlamaConfig *config, int id);

// Adds one more end token after those that are there already; one that is there stays in its place. Errors:
// 2 (no room; the message begins with origin).
int llama_config_add_end(LlamaConfig *config, int id, const char *origin, Error *err);

// Checks the bounds that llama_config_read checks, for a configuration made in memory. The message begins with origin.
int llama_config_check(const LlamaConfig *config, const char *origin, Error *err);

// Refuses (2) a reward model where a language model is needed.
int llama_config_demand_language_model(const LlamaConfig *config, const char *origin, Error *err);

// *text = a config.json that transformers 4 and 5 open as LlamaForCausalLM, or as LlamaForSequenceClassification, and
// llama_config_read reads back unchanged, to be freed by cJSON_free. The dtype is the build's: bfloat16 or float32.
// path: for the message. A reward model's pad_token_id that ends a text is not written: transformers scores the last
// token that is not padding, and answers end in an end token (checkpoint/padding.h finds another).
int llama_config_print(const LlamaConfig *config, const char *path, char **text, Error *err);

// Writes that text to the file `path`, which appears whole or not at all (temporary file, fsync, rename).
int llama_config_write(const LlamaConfig *config, const char *path, Error *err);

// Adds bos_token_id and eos_token_id (null: none; a list where there are several) to a JSON object.
struct cJSON;
void llama_config_add_tokens(struct cJSON *json, const LlamaConfig *config);

#ifdef __cplusplus
}
#endif
#endif
