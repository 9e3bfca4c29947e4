// The opening half of average.h.
#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "checkpoint/checksums.h"
#include "tools/average.h"
#include "tools/average_internal.h"

const ModelMaker average_maker = {"average_llama3", AVERAGE_MARK, "average", "checkpoint", "the average"};

SafetensorsType average_out_type(const Average *a, const SafetensorsTensor *tensor) {
    return model_type_of(a->spec->type, tensor->type);
}

// ---- weights

static int set_weights(Average *a, Error *err) {
    const AverageSpec *spec = a->spec;
    double sum = 0;
    for (int i = 0; i < spec->count; i++) {
        const double weight = spec->weights ? spec->weights[i] : 1;
        if (!isfinite(weight) || weight < 0)
            return fail_input(err, "weight %d is %g, expected a finite number, not below 0", i + 1, weight);
        a->inputs[i].weight = weight;
        sum += weight;
    }
    if (!(sum > 0) || !isfinite(sum))
        return fail_input(err, "the sum of the weights is %g, expected a finite number above 0", sum);
    for (int i = 0; i < spec->count; i++) a->inputs[i].weight /= sum;
    return 0;
}

// ---- inputs

static bool is_adapter(const char *folder) {
    return model_folder_has(folder, "adapter_config.json") && !model_folder_has(folder, "model.safetensors") &&
           !model_folder_has(folder, "model.safetensors.index.json");
}

static int open_input(Average *a, int i, Error *err) {
    AverageInput *input = &a->inputs[i];
    const bool adapter = is_adapter(input->folder);
    if (i == 0) a->adapter = adapter;
    if (adapter && !a->adapter)
        return fail_input(err,
                          "%.300s: is an adapter, expected a model, as %.300s is: merge_lora --adapter %.300s "
                          "--output DIR makes one",
                          input->folder, a->inputs[0].folder, input->folder);
    if (a->adapter && !adapter)
        return fail_input(err, "%.300s: is no adapter, expected one, as %.300s is", input->folder, a->inputs[0].folder);
    int code = adapter ? model_open_adapter(&input->reader, input->folder, err)
                       : safetensors_open_model(&input->reader, input->folder, err);
    if (!code && safetensors_count(input->reader) == 0)
        code = fail_input(err, "%s: has no tensors, expected some", input->folder);
    if (!code) code = checksums_verify_weights(input->folder, err);
    if (!code) code = average_compare_configs(a, i, err);
    if (!code) code = average_drop_leftovers(a, i, err);
    if (!code) code = average_compare_tokenizers(a, i, err);
    return code ? code : average_compare_tensors(a, i, err);
}

static void count_bytes(Average *a) {
    const SafetensorsReader *first = a->inputs[0].reader;
    for (int t = 0; t < safetensors_count(first); t++) {
        const SafetensorsTensor *tensor = safetensors_at(first, t);
        const uint64_t values = safetensors_elements(tensor);
        a->values += values;
        a->write_bytes += values * safetensors_type_size(average_out_type(a, tensor));
        for (int i = 0; i < a->spec->count; i++)
            a->read_bytes += safetensors_tensor_bytes(safetensors_at(a->inputs[i].reader, t));
    }
}

// Many inputs of many files each stay open at a time.
static void allow_many_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int open_all(Average *a, Error *err) {
    int code = set_weights(a, err);
    if (!code)
        code = model_folder_check(&average_maker, a->spec->output, a->spec->inputs, a->spec->count, a->spec->overwrite,
                                  err);
    for (int i = 0; !code && i < a->spec->count; i++) code = open_input(a, i, err);
    if (!code) count_bytes(a);
    return code;
}

int average_open(Average **out, const AverageSpec *spec, Error *err) {
    if (spec->count < 1) return fail_input(err, "no checkpoints to average, expected at least one");
    Average *a = calloc(1, sizeof *a);
    AverageInput *inputs = calloc((size_t)spec->count, sizeof *inputs);
    if (!a || !inputs) {
        free(a);
        free(inputs);
        return fail_fault(err, "%s: no memory to average %d checkpoints", spec->output, spec->count);
    }
    *a = (Average){.spec = spec, .inputs = inputs};
    for (int i = 0; i < spec->count; i++) inputs[i].folder = spec->inputs[i];
    allow_many_files();
    int code = open_all(a, err);
    if (code)
        average_close(a);
    else
        *out = a;
    return code;
}

double average_weight(const Average *a, int input) { return a->inputs[input].weight; }
const Leftovers *average_dropped(const Average *a, int input) { return &a->inputs[input].dropped; }
bool average_is_adapter(const Average *a) { return a->adapter; }
int average_num_tensors(const Average *a) { return safetensors_count(a->inputs[0].reader); }
uint64_t average_num_values(const Average *a) { return a->values; }
uint64_t average_read_bytes(const Average *a) { return a->read_bytes; }
uint64_t average_write_bytes(const Average *a) { return a->write_bytes; }

void average_close(Average *a) {
    if (!a) return;
    for (int i = 0; i < a->spec->count; i++) safetensors_close(a->inputs[i].reader);
    free(a->inputs);
    free(a);
}
