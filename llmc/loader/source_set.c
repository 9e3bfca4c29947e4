#include "loader/source_set.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/match.h"
#include "loader/overlap.h"
#include "loader/windows.h"

static int open_file(SourceSet *set, const char *path, const uint8_t *tokenizer_sha256, Error *err) {
    DataFile *file = &set->files[set->num_files];
    int code = data_file_check_kind(path, LOADER_DOCUMENTS, NULL, err);
    if (!code) code = windows_open_shard(&set->shards[set->num_files], path, set->vocab_size, file, err);
    if (code) return code;
    set->num_files++;
    if (file->num_tokens < 2)
        return fail_input(err, "%s: %llu tokens, expected at least 2", path, (unsigned long long)file->num_tokens);
    return data_file_check(file, &set->files[0], set->vocab_size, tokenizer_sha256, err);
}

static int open_source(SourceSet *set, SourceFiles *source, const FileList *list, const uint8_t *tokenizer_sha256,
                       Error *err) {
    source->first = set->num_files;
    source->count = (int)list->count;
    for (size_t i = 0; i < list->count; i++) {
        int code = open_file(set, list->paths[i], tokenizer_sha256, err);
        if (code) return code;
        source->num_tokens += set->files[set->num_files - 1].num_tokens;
    }
    return 0;
}

static const char *owner_of(const SourceSet *set, const DataFile *file) {
    const SourceFiles *source = set->sources;
    while (file >= &set->files[source->first + source->count]) source++;
    return source->name;
}

static const char *owner_of_path(const SourceSet *set, const char *path) {
    const DataFile *file = set->files;
    while (file->path != path) file++;
    return owner_of(set, file);
}

// A file that is there twice would break the promise that nothing is read twice before an epoch ends.
static int refuse_twins(const SourceSet *set, Error *err) {
    const char *first, *second;
    if (!overlap_count_duplicates(set->files, set->num_files, &first, &second)) return 0;
    return fail_input(err, "%s of source %s is the same file as %s of source %s, expected every file once", second,
                      owner_of_path(set, second), first, owner_of_path(set, first));
}

static int match(const MixtureSource *source, FileList *list, Error *err) {
    Error said = {0};
    int code = file_match(list, source->pattern, "shard", &said);
    if (code == ERROR_INPUT) return fail_input(err, "source %s: %s", source->name, said.message);
    return code ? fail_fault(err, "source %s: %s", source->name, said.message) : 0;
}

static int open_all(SourceSet *set, const MixtureSource *sources, FileList *lists, const uint8_t *tokenizer_sha256,
                    Error *err) {
    size_t num_files = 0;
    for (int i = 0; i < set->count; i++) {
        set->sources[i].name = strdup(sources[i].name);
        if (!set->sources[i].name) return fail_fault(err, "no memory for source %s", sources[i].name);
        int code = match(&sources[i], &lists[i], err);
        if (code) return code;
        num_files += lists[i].count;
    }
    if (num_files > INT_MAX) return fail_input(err, "%zu files of sources, expected at most %d", num_files, INT_MAX);
    set->shards = calloc(num_files, sizeof *set->shards);
    set->files = calloc(num_files, sizeof *set->files);
    int code = set->shards && set->files ? 0 : fail_fault(err, "no memory for %zu files of sources", num_files);
    for (int i = 0; i < set->count && !code; i++)
        code = open_source(set, &set->sources[i], &lists[i], tokenizer_sha256, err);
    return code ? code : refuse_twins(set, err);
}

int source_set_open(SourceSet *set, const MixtureSource *sources, int count, int vocab_size,
                    const uint8_t *tokenizer_sha256, Error *err) {
    *set = (SourceSet){.count = count, .vocab_size = vocab_size};
    set->sources = calloc((size_t)count, sizeof *set->sources);
    FileList *lists = calloc((size_t)count, sizeof *lists);
    int code = set->sources && lists ? open_all(set, sources, lists, tokenizer_sha256, err)
                                     : fail_fault(err, "no memory for %d sources", count);
    for (int i = 0; lists && i < count; i++) file_list_free(&lists[i]);
    free(lists);
    return code;
}

void source_set_close(SourceSet *set) {
    for (int i = 0; set->sources && i < set->count; i++) free(set->sources[i].name);
    for (int i = 0; i < set->num_files; i++) shard_close(&set->shards[i]);
    free(set->sources);
    free(set->shards);
    free(set->files);
}

int source_set_refuse_overlap(const SourceSet *set, const Loader *val, const char *owner, Error *err) {
    int count;
    const DataFile *const files = loader_files(val, &count);
    Overlap found;
    int code = overlap_find(set->files, set->num_files, files, count, &found, err);
    if (code || !found.val) return code;
    return fail_input(err,
                      "%s: source %s has it for validation and source %s for training%s%s%s, expected validation data "
                      "that are not trained on",
                      found.val->path, owner, owner_of(set, found.train), found.copy ? ", as " : "",
                      found.copy ? found.train->path : "", found.copy ? ", a file of the same content" : "");
}
