// Merges a LoRA adapter into its base model: see merge_lora --help.
#include <stdio.h>

#include "run/byte_progress.h"
#include "run/process.h"
#include "run/progress.h"
#include "tools/merge.h"
#include "tools/merge_options.h"

// "4", or "4 to 8"
static const char *range_text(char text[64], MergeRange range) {
    const int length = snprintf(text, 64, "%.6g", range.least);
    if (range.least != range.most) snprintf(text + length, 64 - (size_t)length, " to %.6g", range.most);
    return text;
}

static void print_adapter(const MergeSpec *spec, const Merge *m) {
    char ranks[64], scales[64];
    const char *field;
    const int ignored = merge_num_ignored(m, &field);
    printf("adapter %s: ", spec->adapter);
    if (merge_num_pairs(m))
        printf("%d matrices of rank %s, scale %s, ", merge_num_pairs(m), range_text(ranks, merge_ranks(m)),
               range_text(scales, merge_scales(m)));
    printf("%d whole tensors\n", merge_num_whole(m));
    if (ignored) printf("        %d tensors are left out, as PEFT does: %s\n", ignored, field);
    if (merge_unties_head(m))
        printf("        embedding and head are two matrices in the output: tie_word_embeddings becomes false\n");
}

static void print_plan(const MergeSpec *spec, const Merge *m) {
    static const char *const types[] = {"the base's types", "fp32", "bf16"};
    char bytes[24];
    progress_count(bytes, sizeof bytes, (double)merge_write_bytes(m));
    print_adapter(spec, m);
    printf("base    %s\n", merge_base(m));
    leftovers_print(merge_dropped(m), merge_base(m));
    printf("%d tensors, %sB, merged in fp32, rounded to %s\n", merge_num_tensors(m), bytes, types[spec->type]);
    fflush(stdout);
}

static int write_merged(const MergeSpec *spec, Merge *m, Error *err) {
    ByteProgress progress;
    byte_progress_begin(&progress);
    int code = merge_write(m, byte_progress_show, &progress, err);
    const double seconds = byte_progress_end(&progress);
    if (!code) byte_progress_print(spec->output, merge_write_bytes(m), seconds);
    return code;
}

static int run(const MergeSpec *spec, Error *err) {
    Merge *m = NULL;
    int code = merge_open(&m, spec, err); // compares the adapter with its base
    if (code) return code;
    print_plan(spec, m);
    code = write_merged(spec, m, err); // a directory that transformers opens
    merge_close(m);
    return code;
}

int main(int argc, char **argv) {
    MergeSpec spec;
    Error err = {0};
    process_prepare("merge_lora");
    int code = merge_options_parse(&spec, argc, argv, &err);
    if (!code) code = run(&spec, &err);
    if (code) error_print("%s", err.message);
    return code;
}
