// Averages models: see average_llama3 --help.
#include <stdio.h>

#include "run/byte_progress.h"
#include "run/process.h"
#include "run/progress.h"
#include "tools/average.h"
#include "tools/average_options.h"

static void print_plan(const AverageSpec *spec, const Average *a) {
    static const char *const types[] = {"the first's types", "fp32", "bf16"};
    char values[24];
    progress_count(values, sizeof values, (double)average_num_values(a));
    printf("%s, weights normalised to sum 1:\n", average_is_adapter(a) ? "adapters" : "models");
    for (int i = 0; i < spec->count; i++) printf("  %.6g  %s\n", average_weight(a, i), spec->inputs[i]);
    for (int i = 0; i < spec->count; i++) leftovers_print(average_dropped(a, i), spec->inputs[i]);
    printf("%d tensors, %s values, summed in fp64 in this order, rounded to fp32 and then to %s\n",
           average_num_tensors(a), values, types[spec->type]);
    fflush(stdout);
}

static int write_average(const AverageSpec *spec, Average *a, Error *err) {
    ByteProgress progress;
    byte_progress_begin(&progress);
    int code = average_write(a, byte_progress_show, &progress, err);
    const double seconds = byte_progress_end(&progress);
    if (!code) byte_progress_print(spec->output, average_write_bytes(a), seconds);
    return code;
}

static int run(const AverageSpec *spec, Error *err) {
    Average *a = NULL;
    int code = average_open(&a, spec, err); // compares all that must be the same
    if (code) return code;
    print_plan(spec, a);
    code = write_average(spec, a, err); // a directory that transformers opens
    average_close(a);
    return code;
}

int main(int argc, char **argv) {
    AverageOptions options;
    Error err = {0};
    process_prepare("average_llama3");
    int code = average_options_parse(&options, argc, argv, &err);
    if (!code) code = run(&options.spec, &err);
    average_options_free(&options);
    if (code) error_print("%s", err.message);
    return code;
}
