// Bounds of a configuration, and the tokens that end a text.

#include "model/config_fields.h"

#define INT_FIELD(name, min, max, multiple, absent)                                                                    \
    { #name, offsetof(LlamaConfig, name), min, max, multiple, absent }
const IntField llama_int_fields[INT_FIELDS] = {
    INT_FIELD(vocab_size, 2, 1 << 24, 1, REQUIRED),
    INT_FIELD(hidden_size, 8, 1 << 15, 8, REQUIRED),
    INT_FIELD(intermediate_size, 8, 1 << 20, 8, REQUIRED),
    INT_FIELD(num_hidden_layers, 1, 1 << 12, 1, REQUIRED),
    INT_FIELD(num_attention_heads, 1, 1 << 12, 1, REQUIRED),
    INT_FIELD(num_key_value_heads, 1, 1 << 12, 1, DERIVED),
    INT_FIELD(head_dim, 16, 256, 16, DERIVED),
    INT_FIELD(max_position_embeddings, 1, 1 << 27, 1, 2048),
};

// ---- bounds

static int check_ints(const LlamaConfig *config, const char *origin, Error *err) {
    for (int i = 0; i < INT_FIELDS; i++) {
        const IntField *field = &llama_int_fields[i];
        int value = *llama_int_field((LlamaConfig *)config, field);
        if (value < field->min || value > field->max || value % field->multiple != 0) {
            return fail_input(err, "%s: %s is %d, expected a multiple of %d from %d to %d", origin, field->name, value,
                              field->multiple, field->min, field->max);
        }
    }
    if (config->num_attention_heads % config->num_key_value_heads != 0) {
        return fail_input(err, "%s: num_attention_heads is %d, expected a multiple of num_key_value_heads (%d)", origin,
                          config->num_attention_heads, config->num_key_value_heads);
    }
    return 0;
}

static int check_real(double value, double min, double max, const char *name, const char *origin, Error *err) {
    if (value >= min && value <= max) return 0; // false for NaN
    return fail_input(err, "%s: %s is %g, expected a number from %g to %g", origin, name, value, min, max);
}

static int check_rope(const LlamaConfig *config, const char *origin, Error *err) {
    int code = check_real(config->rope_theta, 1, 1e15, "rope_theta", origin, err);
    if (code != 0 || config->rope_type == ROPE_DEFAULT) return code;
    code = check_real(config->rope_factor, 1, 1e6, "factor of RoPE", origin, err);
    if (code == 0) code = check_real(config->rope_low_freq_factor, 1e-3, 1e6, "low_freq_factor of RoPE", origin, err);
    if (code == 0) code = check_real(config->rope_high_freq_factor, 1e-3, 1e6, "high_freq_factor of RoPE", origin, err);
    if (code == 0) {
        code = check_real(config->rope_original_max_position, 1, 1 << 27, "original_max_position_embeddings of RoPE",
                          origin, err);
    }
    if (code == 0 && config->rope_low_freq_factor >= config->rope_high_freq_factor) {
        code = fail_input(err, "%s: low_freq_factor of RoPE is %g, expected less than high_freq_factor (%g)", origin,
                          config->rope_low_freq_factor, config->rope_high_freq_factor);
    }
    return code;
}

static int check_token_id(int id, int vocab_size, const char *name, const char *origin, Error *err) {
    if (id >= -1 && id < vocab_size) return 0;
    return fail_input(err, "%s: %s is %d, expected an id below vocab_size (%d)", origin, name, id, vocab_size);
}

int llama_config_check(const LlamaConfig *config, const char *origin, Error *err) {
    int code = check_ints(config, origin, err);
    if (code == 0) code = check_real(config->rms_norm_eps, 1e-12, 0.1, "rms_norm_eps", origin, err);
    if (code == 0) code = check_real(config->initializer_range, 0, 1, "initializer_range", origin, err);
    if (code == 0) code = check_rope(config, origin, err);
    if (code == 0) code = check_token_id(config->bos_token_id, config->vocab_size, "bos_token_id", origin, err);
    if (code == 0) code = check_token_id(config->eos_token_id, config->vocab_size, "eos_token_id", origin, err);
    if (code == 0) code = check_token_id(config->pad_token_id, config->vocab_size, "pad_token_id", origin, err);
    if (code == 0 && config->num_labels != 0 && config->num_labels != 1)
        code = fail_input(err, "%s: num_labels is %d, expected 0 or 1", origin, config->num_labels);
    if (config->num_more_eos_tokens < 0 || config->num_more_eos_tokens >= LLAMA_MAX_EOS_TOKENS)
        code = fail_input(err, "%s: eos_token_id has %d ids beside its first", origin, config->num_more_eos_tokens);
    for (int i = 0; code == 0 && i < config->num_more_eos_tokens; i++) {
        code = check_token_id(config->more_eos_token_ids[i], config->vocab_size, "eos_token_id", origin, err);
    }
    return code;
}

int llama_config_demand_language_model(const LlamaConfig *config, const char *origin, Error *err) {
    if (config->num_labels == 0) return 0;
    return fail_input(err, "%s: architectures is [\"" REWARD_MODEL "\"], a reward model, expected a language model",
                      origin);
}

// ---- end tokens

bool llama_config_is_end(const LlamaConfig *config, int id) {
    bool found = id >= 0 && id == config->eos_token_id;
    for (int i = 0; i < config->num_more_eos_tokens && !found; i++) found = id == config->more_eos_token_ids[i];
    return found;
}

int llama_config_add_end(LlamaConfig *config, int id, const char *origin, Error *err) {
    if (llama_config_is_end(config, id)) return 0;
    if (config->eos_token_id < 0) {
        config->eos_token_id = id;
        return 0;
    }
    if (config->num_more_eos_tokens == LLAMA_MAX_EOS_TOKENS - 1)
        return fail_input(err, "%s: eos_token_id has more than %d ids", origin, LLAMA_MAX_EOS_TOKENS);
    config->more_eos_token_ids[config->num_more_eos_tokens++] = id;
    return 0;
}
