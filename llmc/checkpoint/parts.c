#include "checkpoint/parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const training_names[TRAINING_ARRAYS] = {"master", "moment1", "moment2", "average"};

// By the middle of the tensor among all elements.
int part_of_tensor(const ParameterTable *table, int tensor, int parts) {
    size_t before = 0;
    if (table->lora_rank) return table->tensors[tensor].trained ? 0 : -1;
    for (int i = 0; i < tensor; i++) before += parameter_elements(&table->tensors[i]);
    const double middle = (double)before + 0.5 * (double)parameter_elements(&table->tensors[tensor]);
    const int part = (int)(middle * parts / (double)table->num_parameters);
    return part < parts ? part : parts - 1;
}

void saved_name(char name[SAVED_NAME_SIZE], const ParameterTable *table, const ParameterTensor *tensor) {
    const bool prefixed = table->lora_rank && !parameter_is_adapter(tensor);
    snprintf(name, SAVED_NAME_SIZE, "%s%s", prefixed ? "base_model.model." : "", tensor->name);
}

bool part_model_file(char name[PART_NAME_SIZE], const ParameterTable *table, int part, int parts) {
    int number = 0, count = 0, last = -1;
    bool holds = false;
    if (table->lora_rank) {
        snprintf(name, PART_NAME_SIZE, "%s", ADAPTER_FILE);
        return part == 0;
    }
    for (int i = 0; i < table->count; i++) {
        const int of = part_of_tensor(table, i, parts);
        if (of != last) count++;
        if (of == part && !holds) number = count;
        holds |= of == part;
        last = of;
    }
    if (count == 1)
        snprintf(name, PART_NAME_SIZE, "model.safetensors");
    else
        snprintf(name, PART_NAME_SIZE, "model-%05d-of-%05d.safetensors", number, count);
    return holds;
}

void part_optimizer_file(char name[PART_NAME_SIZE], int part, int parts) {
    if (parts == 1)
        snprintf(name, PART_NAME_SIZE, "trainer/optimizer.safetensors");
    else
        snprintf(name, PART_NAME_SIZE, "trainer/optimizer-%05d-of-%05d.safetensors", part + 1, parts);
}

void piece_name(char name[PIECE_NAME_SIZE], const char *prefix, const ParameterTensor *tensor, size_t first,
                size_t count) {
    if (first == 0 && count == parameter_elements(tensor))
        snprintf(name, PIECE_NAME_SIZE, "%s.%s", prefix, tensor->name);
    else
        snprintf(name, PIECE_NAME_SIZE, "%s.%s[%zu:%zu]", prefix, tensor->name, first, first + count);
}

// Digits up to `until`; *at = what follows that.
static bool parse_number(const char **at, char until, uint64_t *value) {
    char *end;
    if (**at < '0' || **at > '9') return false;
    errno = 0;
    *value = strtoull(*at, &end, 10);
    if (errno || *value > INT64_MAX || *end != until) return false;
    *at = end + 1;
    return true;
}

bool piece_parse(const char *name, char base[PIECE_NAME_SIZE], bool *whole, uint64_t *first, uint64_t *end) {
    const char *bracket = strchr(name, '[');
    const size_t length = bracket ? (size_t)(bracket - name) : strlen(name);
    if (length >= PIECE_NAME_SIZE) return false;
    memcpy(base, name, length);
    base[length] = 0;
    *whole = !bracket;
    if (!bracket) return true;
    const char *at = bracket + 1;
    return parse_number(&at, ':', first) && parse_number(&at, ']', end) && *at == 0 && *first < *end;
}
