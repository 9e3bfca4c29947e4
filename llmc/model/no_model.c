#include "model/no_model.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"

enum { NAME_BYTES = 256 };

// The names found in the folder, one of each kind; empty: none.
typedef struct {
    char adapter[NAME_BYTES], safetensors[NAME_BYTES], pickle[NAME_BYTES], gguf[NAME_BYTES];
} Found;

bool is_pickle_name(const char *name) {
    return text_ends_with(name, ".bin") || text_ends_with(name, ".pt") || text_ends_with(name, ".pth") ||
           text_ends_with(name, ".ckpt");
}

// The first by name, in whatever order the system lists them.
static void note(char kept[NAME_BYTES], const char *name) {
    if (!*kept || strcmp(name, kept) < 0) snprintf(kept, NAME_BYTES, "%s", name);
}

// Trainers leave pickles of their own beside the weights, and a folder of data, given by mistake, has shards: these are no
// models.
static bool is_model_pickle(const char *name) {
    static const char *const others[] = {"training_args.", "optimizer.", "scheduler.", "rng_state",
                                         "train_",         "val_",       NULL};
    for (const char *const *other = others; *other; ++other)
        if (strncmp(name, *other, strlen(*other)) == 0) return false;
    return is_pickle_name(name);
}

static int look(Found *found, const char *folder, Error *err) {
    DIR *open_folder = opendir(folder);
    if (!open_folder) return file_fail_open(err, folder, errno);
    for (struct dirent *item = readdir(open_folder); item; item = readdir(open_folder)) {
        const char *name = item->d_name;
        if (strcmp(name, "adapter_config.json") == 0) note(found->adapter, name);
        if (text_ends_with(name, ".safetensors")) note(found->safetensors, name);
        if (is_model_pickle(name)) note(found->pickle, name);
        if (text_ends_with(name, ".gguf")) note(found->gguf, name);
    }
    closedir(open_folder);
    return 0;
}

int explain_no_model(const char *folder, Error *err) {
    Found found = {.adapter = ""};
    int code = look(&found, folder, err);
    if (code) return code;
    if (*found.adapter)
        return fail_input(
            err,
            "%.300s: is an adapter (%s), expected a model: merge_lora --adapter %.300s --output DIR makes "
            "one of it and its base",
            folder, found.adapter, folder);
    if (*found.safetensors) return 0;
    if (*found.pickle)
        return fail_input(err,
                          "%.300s: \"%.120s\" is a pickle: not supported, convert to safetensors (transformers' "
                          "from_pretrained, then save_pretrained)",
                          folder, found.pickle);
    if (!*found.gguf) return 0;
    return fail_input(err, "%.300s: \"%.120s\" is GGUF: not supported, expected the safetensors that it was made of",
                      folder, found.gguf);
}
