#include "checkpoint/write_tensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "checkpoint/convert.h"
#include "checkpoint/parts.h"
#include "checkpoint/read.h"
#include "checkpoint/safetensors.h"

enum { PIECE = 1 << 20 }; // elements that are converted or fetched at a time

// What a file holds of parameters: training arrays (fp32), or the parameters themselves (floatX).
enum { WEIGHTS = TRAINING_ARRAYS, KINDS };

// ---- what is in a file: some elements of some tensors of some kinds

typedef struct {
    int kind, tensor;
    size_t first, count;
} Item;

typedef struct {
    Item *items;
    char (*names)[PIECE_NAME_SIZE];
    SafetensorsTensor *tensors;
    int count;
} Declared;

static void declare(Declared *d, const ParameterTable *table, Item item) {
    const ParameterTensor *t = &table->tensors[item.tensor];
    char *name = d->names[d->count];
    if (item.kind == WEIGHTS)
        saved_name(name, table, t);
    else
        piece_name(name, training_names[item.kind], t, item.first, item.count);
    SafetensorsTensor *tensor = &d->tensors[d->count];
    *tensor = (SafetensorsTensor){.name = name, .dims = t->dims, .shape = {t->rows, t->cols, 1, 1}};
    tensor->type = item.kind == WEIGHTS && sizeof(floatX) == 2 ? SAFETENSORS_BF16 : SAFETENSORS_F32;
    if (item.count != parameter_elements(t) || t->dims == 1) {
        tensor->dims = 1;
        tensor->shape[0] = (int64_t)item.count;
        tensor->shape[1] = 1;
    }
    d->items[d->count++] = item;
}

static void free_declared(Declared *d) {
    free(d->items);
    free(d->names);
    free(d->tensors);
}

// Room for `kinds` items of each tensor. false: no memory.
static bool make_room(Declared *d, const ParameterTable *table, int kinds) {
    const size_t room = (size_t)table->count * (size_t)kinds;
    *d =
        (Declared){calloc(room, sizeof *d->items), calloc(room, sizeof *d->names), calloc(room, sizeof *d->tensors), 0};
    if (d->items && d->names && d->tensors) return true;
    free_declared(d);
    return false;
}

static bool declare_weights(Declared *d, const CheckpointContent *c) {
    if (!make_room(d, c->table, 1)) return false;
    for (int i = 0; i < c->table->count; i++)
        if (part_of_tensor(c->table, i, c->parts) == c->part)
            declare(d, c->table, (Item){WEIGHTS, i, 0, parameter_elements(&c->table->tensors[i])});
    return true;
}

static bool declare_training(Declared *d, const CheckpointContent *c) {
    const int arrays = c->average ? TRAINING_ARRAYS : TRAINING_AVERAGE;
    if (!make_room(d, c->table, arrays)) return false;
    for (int kind = 0; kind < arrays; kind++)
        for (int i = 0; i < c->table->count; i++) {
            const ParameterPiece own = parameter_piece(c->table, i, c->part);
            if (own.count) declare(d, c->table, (Item){kind, i, own.first, own.count});
        }
    return true;
}

// ---- their values

typedef struct {
    float fetched[PIECE];  // from the model
    floatX rounded[PIECE]; // weights
} Pieces;

static const float *find_training(const CheckpointContent *c, Item item, Pieces *pieces) {
    const ParameterPiece own = parameter_piece(c->table, item.tensor, c->part);
    if (c->snapshot) return snapshot_array(c->snapshot, (TrainingArray)item.kind) + own.at + (item.first - own.first);
    llama3_get_training_piece(c->model, (TrainingArray)item.kind, item.tensor, item.first, item.count, pieces->fetched);
    return pieces->fetched;
}

// Of one part the trained ones are the master weights, rounded, which a snapshot has anyway.
static const floatX *find_weights(const CheckpointContent *c, Item item, Pieces *pieces) {
    if (c->parts == 1 && c->table->tensors[item.tensor].trained) {
        item.kind = TRAINING_MASTER;
        convert_to_x(pieces->rounded, find_training(c, item, pieces), SAFETENSORS_F32, item.count);
        return pieces->rounded;
    }
    if (c->snapshot) return snapshot_parameter(c->snapshot, item.tensor) + item.first;
    llama3_get_parameter_piece(c->model, item.tensor, item.first, item.count, pieces->rounded);
    return pieces->rounded;
}

// What a model of means over steps is made of: those of the trained tensors, and the checkpoint's own model for the others.
typedef struct {
    TrainingParts *trained;
    SafetensorsReader *model;
} Mean;

static int find_mean(const Mean *mean, const ParameterTensor *t, Item item, Pieces *pieces, Error *err) {
    if (!t->trained)
        return safetensors_read(mean->model, safetensors_find(mean->model, t->name), item.first * sizeof(floatX),
                                item.count * sizeof(floatX), pieces->rounded, err);
    int code = average_parts_read(mean->trained, item.tensor, item.first, item.count, pieces->fetched, err);
    if (!code) convert_to_x(pieces->rounded, pieces->fetched, SAFETENSORS_F32, item.count);
    return code;
}

static int stream_mean(const CheckpointContent *c, const Mean *mean, SafetensorsWriter *out, Item item, Pieces *pieces,
                       Error *err) {
    int code = find_mean(mean, &c->table->tensors[item.tensor], item, pieces, err);
    return code ? code : safetensors_write(out, pieces->rounded, item.count * sizeof(floatX), err);
}

static int stream_piece(const CheckpointContent *c, const Mean *mean, SafetensorsWriter *out, Item item, Pieces *pieces,
                        Error *err) {
    if (mean) return stream_mean(c, mean, out, item, pieces, err);
    if (item.kind == WEIGHTS)
        return safetensors_write(out, find_weights(c, item, pieces), item.count * sizeof(floatX), err);
    return safetensors_write(out, find_training(c, item, pieces), item.count * sizeof(float), err);
}

static int stream_item(const CheckpointContent *c, const Mean *mean, SafetensorsWriter *out, Item item, Pieces *pieces,
                       Error *err) {
    const size_t end = item.first + item.count;
    for (size_t first = item.first; first < end; first += PIECE) {
        const size_t count = end - first < PIECE ? end - first : PIECE;
        const int code = stream_piece(c, mean, out, (Item){item.kind, item.tensor, first, count}, pieces, err);
        if (code) return code;
    }
    return 0;
}

static int stream(const CheckpointContent *c, const Mean *mean, SafetensorsWriter *out, const Declared *d,
                  const char *path, Error *err) {
    Pieces *pieces = malloc(sizeof *pieces);
    if (!pieces) return fail_fault(err, "%s: no memory to write it", path);
    int code = 0;
    for (int i = 0; !code && i < d->count; i++) code = stream_item(c, mean, out, d->items[i], pieces, err);
    free(pieces);
    return code;
}

// ---- files

static int finish(Writing *w, SafetensorsWriter *out, const char *name, Error *err) {
    Digest digest = safetensors_digest(out);
    uint64_t bytes = safetensors_written(out);
    int code = safetensors_finish(out, err);
    return code ? code : writing_note(w, name, &digest, bytes, err);
}

// mean: the values are its, not the model's; NULL: no.
static int write_file(Writing *w, const char *name, const Declared *d, const SafetensorsMetadata *metadata,
                      const Mean *mean, Error *err) {
    char path[PATH_MAX];
    SafetensorsWriter *out = NULL;
    int code = path_join(path, w->folder, name, err);
    if (!code) code = safetensors_create_plain(&out, path, d->tensors, d->count, metadata, err);
    if (code) return code;
    code = stream(w->content, mean, out, d, path, err);
    if (!code) return finish(w, out, name, err);
    safetensors_discard(out);
    return code;
}

int write_parameters(Writing *w, Error *err) {
    const CheckpointContent *c = w->content;
    char name[PART_NAME_SIZE];
    Declared d;
    if (!part_model_file(name, c->table, c->part, c->parts)) return 0;
    if (!declare_weights(&d, c)) return fail_fault(err, "%s: no memory for the header of %s", w->folder, name);
    int code = write_file(w, name, &d, NULL, NULL, err);
    free_declared(&d);
    return code;
}

int write_averaged(Writing *w, const char *name, Error *err) {
    CheckpointContent whole = *w->content; // one file, whatever the number of parts
    Mean mean = {NULL, NULL};
    Declared d;
    whole.part = 0;
    whole.parts = 1;
    if (!declare_weights(&d, &whole)) return fail_fault(err, "%s: no memory for the header of %s", w->folder, name);
    int code = average_parts_open(&mean.trained, w->folder, whole.table, err);
    if (!code && !whole.table->lora_rank) code = safetensors_open_model(&mean.model, w->folder, err);
    if (!code) code = write_file(w, name, &d, NULL, &mean, err);
    average_parts_close(mean.trained);
    safetensors_close(mean.model);
    free_declared(&d);
    return code;
}

int write_training(Writing *w, Error *err) {
    const CheckpointContent *c = w->content;
    char name[PART_NAME_SIZE], step[24], part[16], parts[16];
    const SafetensorsMetadata metadata[] = {{PART_STEP, step}, {PART_NUMBER, part}, {PART_COUNT, parts}, {NULL, NULL}};
    Declared d;
    part_optimizer_file(name, c->part, c->parts);
    snprintf(step, sizeof step, "%lld", (long long)c->step);
    snprintf(part, sizeof part, "%d", c->part + 1);
    snprintf(parts, sizeof parts, "%d", c->parts);
    if (!declare_training(&d, c)) return fail_fault(err, "%s: no memory for the header of %s", w->folder, name);
    int code = write_file(w, name, &d, c->parts > 1 ? metadata : NULL, NULL, err);
    free_declared(&d);
    return code;
}
