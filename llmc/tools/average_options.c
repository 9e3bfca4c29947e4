#include "tools/average_options.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "checkpoint/find_model.h"
#include "tools/tool_options.h"

static const char description[] =
    "average_llama3 " LLMC_VERSION ": average models, given as Hugging Face directories with safetensors: language "
    "models, reward models, or LoRA adapters.\v"
    "Values are summed in fp64, in the order of the command line, each times its weight; the weights are normalised to "
    "sum 1. The sum is rounded to fp32 and from there to the output's type. Tensors are processed in pieces and take a "
    "few MB of memory, whatever the size of the models.\n\n"
    "Configuration, tokenizer and template files are copied from the first checkpoint. The others must have the same "
    "tensors, shapes, tokenizer and model configuration, or are refused; their types may differ. For LoRA adapters, A "
    "and B are averaged separately, which is not the average of the merged models.\n\n"
    "The output is complete or it does not exist.\n\n"
    "Exit codes: 0 done, 2 bad usage or input, 1 anything else.";

enum { KEY_OVERWRITE = 1000 };

static const struct argp_option table[] = {
    {"output", 'o', "DIR", 0, "output folder", 0},
    {"weights", 'w', "LIST", 0, "a number for each checkpoint, e.g. 0.5,0.3,0.2 (default: equal weights)", 0},
    {"dtype", 'd', "same|fp32|bf16", 0,
     "type of the output's tensors; same: as in the first checkpoint (default: same)", 0},
    {"overwrite", KEY_OVERWRITE, NULL, 0, "replace an output folder that average_llama3 made", 0},
    {0}};

typedef struct {
    AverageOptions *options;
    const char *weights;
    Error *err;
} Parse;

static int add_input(AverageOptions *options, const char *folder) {
    options->inputs[options->spec.count++] = folder; // room for all of argv
    return 0;
}

static error_t take(int key, char *text, struct argp_state *state) {
    Parse *parse = state->input;
    AverageSpec *spec = &parse->options->spec;
    if (parse->err->code) return 0; // the first mistake is reported
    switch (key) {
    case 'o':
        tool_take_folder(&spec->output, "--output", text, parse->err);
        return 0;
    case 'w':
        parse->weights = text;
        return 0;
    case 'd':
        tool_take_type(&spec->type, text, parse->err);
        return 0;
    case KEY_OVERWRITE:
        spec->overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
        return add_input(parse->options, text);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int count_parts(const char *text) {
    int parts = 1;
    for (; *text; text++) parts += *text == ',';
    return parts;
}

static int parse_weights(AverageOptions *options, const char *text, Error *err) {
    const int count = options->spec.count, found = count_parts(text);
    if (found != count)
        return fail_input(err, "option --weights: expected %d numbers, one for each checkpoint, found %d: '%.200s'",
                          count, found, text);
    options->weights = calloc((size_t)count, sizeof *options->weights);
    if (!options->weights) return fail_fault(err, "no memory for %d weights", count);
    const char *rest = text;
    for (int i = 0; i < count; i++) {
        char *end;
        options->weights[i] = strtod(rest, &end);
        if (end == rest || *end != (i + 1 < count ? ',' : 0))
            return fail_input(err, "option --weights: expected numbers divided by commas, found '%.200s'", text);
        rest = end + 1;
    }
    options->spec.weights = options->weights;
    return 0;
}

int average_options_parse(AverageOptions *options, int argc, char **argv, Error *err) {
    const struct argp argp = {table, take, "CHECKPOINT...", description, NULL, NULL, NULL};
    Parse parse = {options, NULL, err};
    *options = (AverageOptions){.inputs = calloc((size_t)argc + 1, sizeof *options->inputs)};
    if (!options->inputs) return fail_fault(err, "no memory for the options");
    options->spec.inputs = options->inputs;
    argp_err_exit_status = ERROR_INPUT;
    argp_program_version = version_of("average_llama3");
    argp_parse(&argp, argc, argv, 0, NULL, &parse);
    if (err->code) return err->code;
    if (!options->spec.output) return fail_input(err, "--output DIR is missing, see --help");
    if (!options->spec.count) return fail_input(err, "CHECKPOINT is missing, expected at least one folder, see --help");
    for (int i = 0; i < options->spec.count; i++)
        if (find_model(&options->inputs[i], err)) return err->code;
    return parse.weights ? parse_weights(options, parse.weights, err) : 0;
}

void average_options_free(AverageOptions *options) {
    free((void *)options->inputs);
    free(options->weights);
}
