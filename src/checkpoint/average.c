// The opening half of average.h.
#include "checkpoint/average.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "checkpoint/average_internal.h"
#include "checkpoint/store.h"

bool average_has(const char *folder, const char *name) {
    char path[PATH_MAX];
    return store_path(path, folder, name, NULL) == 0 && access(path, F_OK) == 0;
}

SafetensorsType average_out_type(const Average *a, const SafetensorsTensor *tensor) {
    if (a->spec->type == AVERAGE_SAME) return tensor->type;
    return a->spec->type == AVERAGE_FP32 ? SAFETENSORS_F32 : SAFETENSORS_BF16;
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

// ---- the output

// Is `inner` the folder `outer`, or within it? Both as realpath gives them.
static bool is_within(const char *inner, const char *outer) {
    const size_t length = strlen(outer);
    return strncmp(inner, outer, length) == 0 && (inner[length] == 0 || inner[length] == '/' || length == 1);
}

static int check_beside_inputs(const AverageSpec *spec, const char *output, Error *err) {
    char input[PATH_MAX];
    for (int i = 0; i < spec->count; i++) {
        if (!realpath(spec->inputs[i], input)) continue; // opening it tells
        if (is_within(input, output))
            return fail_input(err, "%s: the output %s checkpoint %s, expected another folder", spec->output,
                              strcmp(input, output) == 0 ? "is" : "contains", spec->inputs[i]);
    }
    return 0;
}

static bool is_empty(const char *folder) {
    int names = 0;
    DIR *open_folder = opendir(folder);
    while (open_folder && readdir(open_folder)) names++;
    if (open_folder) closedir(open_folder);
    return names == 2; // . and ..
}

static int check_output(const AverageSpec *spec, Error *err) {
    char output[PATH_MAX];
    struct stat status;
    if (lstat(spec->output, &status) != 0) return errno == ENOENT ? 0 : file_fail_open(err, spec->output, errno);
    if (!realpath(spec->output, output)) return file_fail_open(err, spec->output, errno);
    int code = check_beside_inputs(spec, output, err);
    if (code) return code;
    if (!S_ISDIR(status.st_mode))
        return fail_input(err, "%s: exists and is no folder, expected a folder, or nothing", spec->output);
    if (is_empty(spec->output)) return 0;
    if (!spec->overwrite)
        return fail_input(err, "%s: exists, expected a folder that does not, or --overwrite", spec->output);
    if (average_has(spec->output, AVERAGE_MARK)) return 0;
    return fail_input(err, "%s: has no %s: expected a folder that average_llama3 made, as only that is overwritten",
                      spec->output, AVERAGE_MARK);
}

// ---- inputs

static int open_adapter(AverageInput *input, Error *err) {
    char path[PATH_MAX];
    const bool pickled =
        !average_has(input->folder, "adapter_model.safetensors") && average_has(input->folder, "adapter_model.bin");
    int code = store_path(path, input->folder, pickled ? "adapter_model.bin" : "adapter_model.safetensors", err);
    return code ? code : safetensors_open(&input->reader, path, err); // which refuses a pickle
}

static bool is_adapter(const char *folder) {
    return average_has(folder, "adapter_config.json") && !average_has(folder, "model.safetensors") &&
           !average_has(folder, "model.safetensors.index.json");
}

static int open_input(Average *a, int i, Error *err) {
    AverageInput *input = &a->inputs[i];
    const bool adapter = is_adapter(input->folder);
    if (i == 0) a->adapter = adapter;
    if (a->adapter != adapter)
        return fail_input(err, "%s: is %s, expected %s, as %s is", input->folder, adapter ? "an adapter" : "no adapter",
                          a->adapter ? "an adapter" : "a model", a->inputs[0].folder);
    int code = adapter ? open_adapter(input, err) : safetensors_open_model(&input->reader, input->folder, err);
    if (!code) code = average_compare_configs(a, i, err);
    if (!code) code = average_compare_tokenizers(a, i, err);
    return code ? code : average_compare_tensors(a, i, err);
}

static void count_bytes(Average *a) {
    const SafetensorsReader *first = a->inputs[0].reader;
    for (int t = 0; t < safetensors_count(first); t++) {
        const SafetensorsTensor *tensor = safetensors_at(first, t);
        const uint64_t values = safetensors_tensor_bytes(tensor) / safetensors_type_size(tensor->type);
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
    if (!code) code = check_output(a->spec, err);
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
