#include "model/config_compare.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef enum { FIELD_INT, FIELD_REAL, FIELD_FLOAT, FIELD_BOOL, FIELD_ROPE } FieldType;

typedef struct {
    const char *name;
    FieldType type;
    size_t offset;
} Field;

#define FIELD(f, n, t)                                                                                                 \
    { .name = n, .type = t, .offset = offsetof(LlamaConfig, f) }

static const Field fields[] = {
    FIELD(vocab_size, "vocab_size", FIELD_INT),
    FIELD(hidden_size, "hidden_size", FIELD_INT),
    FIELD(intermediate_size, "intermediate_size", FIELD_INT),
    FIELD(num_hidden_layers, "num_hidden_layers", FIELD_INT),
    FIELD(num_attention_heads, "num_attention_heads", FIELD_INT),
    FIELD(num_key_value_heads, "num_key_value_heads", FIELD_INT),
    FIELD(head_dim, "head_dim", FIELD_INT),
    FIELD(max_position_embeddings, "max_position_embeddings", FIELD_INT),
    FIELD(rms_norm_eps, "rms_norm_eps", FIELD_FLOAT),
    FIELD(rope_theta, "rope_theta", FIELD_REAL),
    FIELD(initializer_range, "initializer_range", FIELD_REAL),
    FIELD(tie_word_embeddings, "tie_word_embeddings", FIELD_BOOL),
    FIELD(rope_type, "rope_type", FIELD_ROPE),
    FIELD(rope_factor, "rope_parameters.factor", FIELD_REAL),
    FIELD(rope_low_freq_factor, "rope_parameters.low_freq_factor", FIELD_REAL),
    FIELD(rope_high_freq_factor, "rope_parameters.high_freq_factor", FIELD_REAL),
    FIELD(rope_original_max_position, "rope_parameters.original_max_position_embeddings", FIELD_INT),
    FIELD(bos_token_id, "bos_token_id", FIELD_INT),
    FIELD(eos_token_id, "eos_token_id", FIELD_INT),
    FIELD(num_labels, "num_labels", FIELD_INT),
};

static void print_value(char text[LLAMA_FIELD_TEXT], const Field *field, const LlamaConfig *config) {
    const char *place = (const char *)config + field->offset;
    switch (field->type) {
    case FIELD_INT:
        snprintf(text, LLAMA_FIELD_TEXT, "%d", *(const int *)place);
        break;
    case FIELD_REAL:
        snprintf(text, LLAMA_FIELD_TEXT, "%.17g", *(const double *)place);
        break;
    case FIELD_FLOAT:
        snprintf(text, LLAMA_FIELD_TEXT, "%.9g", (double)*(const float *)place);
        break;
    case FIELD_BOOL:
        snprintf(text, LLAMA_FIELD_TEXT, "%s", *(const bool *)place ? "true" : "false");
        break;
    case FIELD_ROPE:
        snprintf(text, LLAMA_FIELD_TEXT, "%s", *(const RopeType *)place == ROPE_LLAMA3 ? "llama3" : "default");
        break;
    }
}

// All end tokens, as a list.
static void print_more_ends(char text[LLAMA_FIELD_TEXT], const LlamaConfig *config) {
    size_t length = 0;
    snprintf(text, LLAMA_FIELD_TEXT, "%d", config->eos_token_id);
    for (int i = 0; i < config->num_more_eos_tokens; i++) {
        length = strlen(text);
        snprintf(text + length, LLAMA_FIELD_TEXT - length, ", %d", config->more_eos_token_ids[i]);
    }
}

bool llama_config_difference(const LlamaConfig *a, const LlamaConfig *b, char field[LLAMA_FIELD_TEXT],
                             char value_a[LLAMA_FIELD_TEXT], char value_b[LLAMA_FIELD_TEXT]) {
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        snprintf(field, LLAMA_FIELD_TEXT, "%s", fields[i].name);
        print_value(value_a, &fields[i], a);
        print_value(value_b, &fields[i], b);
        if (strcmp(value_a, value_b) != 0) return true;
    }
    snprintf(field, LLAMA_FIELD_TEXT, "eos_token_id");
    print_more_ends(value_a, a);
    print_more_ends(value_b, b);
    return strcmp(value_a, value_b) != 0;
}
