#include "tools/merge_options.h"

#include <argp.h>

#include "base/version.h"
#include "checkpoint/find_model.h"
#include "tools/tool_options.h"

static const char description[] =
    "merge_lora " LLMC_VERSION ": merge a LoRA adapter, as PEFT and train_llama3 save it, into its base model.\v"
    "Each matrix W that the adapter changes becomes W + scale * B A, computed in fp32 and rounded once to its type. "
    "Weights that the adapter contains whole (modules_to_save, such as the score of a reward model) replace the "
    "base's. "
    "Tensors are processed in pieces: a few MB of memory besides the adapter's two matrices of one tensor.\n\n"
    "Configuration and other files are the base's, tokenizer and template the adapter's if it has them. An adapter "
    "that "
    "is not plain LoRA, or that belongs to another base, is refused by name.\n\n"
    "The output is complete or it does not exist.\n\n"
    "Exit codes: 0 done, 2 bad usage or input, 1 anything else.";

enum { KEY_OVERWRITE = 1000 };

static const struct argp_option table[] = {
    {"adapter", 'a', "DIR", 0, "folder with adapter_config.json and adapter_model.safetensors", 0},
    {"base", 'b', "DIR", 0, "Hugging Face directory of the base (default: the folder that the adapter names)", 0},
    {"output", 'o', "DIR", 0, "output folder", 0},
    {"dtype", 'd', "same|fp32|bf16", 0, "type of the output's tensors; same: as in the base (default: same)", 0},
    {"overwrite", KEY_OVERWRITE, NULL, 0, "replace an output folder that merge_lora made", 0},
    {0}};

typedef struct {
    MergeSpec *spec;
    Error *err;
} Parse;

static error_t take(int key, char *text, struct argp_state *state) {
    const Parse *parse = state->input;
    MergeSpec *spec = parse->spec;
    if (parse->err->code) return 0; // the first mistake is reported
    switch (key) {
    case 'a':
        tool_take_folder(&spec->adapter, "--adapter", text, parse->err);
        return 0;
    case 'b':
        tool_take_folder(&spec->base, "--base", text, parse->err);
        return 0;
    case 'o':
        tool_take_folder(&spec->output, "--output", text, parse->err);
        return 0;
    case 'd':
        tool_take_type(&spec->type, text, parse->err);
        return 0;
    case KEY_OVERWRITE:
        spec->overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
        fail_input(parse->err, "expected options alone, found '%.200s', see --help", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int merge_options_parse(MergeSpec *spec, int argc, char **argv, Error *err) {
    const struct argp argp = {table, take, NULL, description, NULL, NULL, NULL};
    Parse parse = {spec, err};
    *spec = (MergeSpec){.adapter = NULL};
    argp_err_exit_status = ERROR_INPUT;
    argp_program_version = version_of("merge_lora");
    argp_parse(&argp, argc, argv, 0, NULL, &parse);
    if (err->code) return err->code;
    if (!spec->adapter) return fail_input(err, "--adapter DIR is missing, see --help");
    if (!spec->output) return fail_input(err, "--output DIR is missing, see --help");
    int code = find_model(&spec->adapter, err);
    return code || !spec->base ? code : find_model(&spec->base, err);
}
