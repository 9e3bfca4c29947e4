#include "checkpoint/checksums.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/new_file.h"
#include "base/path.h"

enum { MAX_BYTES = 1 << 20, SPACES = 2 };
static const char last_line[] = "# xxh128 of the lines above: ";

// Files without which a folder is no checkpoint of ours, or what stands in their place where it holds adapters; of each kind
// there may be more.
static const char *const needed[] = {"config.json", "model", "trainer/state.json", "trainer/optimizer"};
static const char *const of_adapters[] = {"adapter_config.json", "adapter_model", NULL, NULL};
enum { NEEDED = sizeof needed / sizeof *needed };

// ---- writing

static int append(Checksums *sums, const char *text, Error *err) {
    size_t length = strlen(text);
    char *grown = realloc(sums->text, sums->length + length + 1);
    if (!grown) return fail_fault(err, "no memory for a checkpoint's checksums");
    memcpy(grown + sums->length, text, length + 1);
    sums->text = grown;
    sums->length += length;
    return 0;
}

int checksums_add(Checksums *sums, const char *name, const Digest *digest, Error *err) {
    char line[DIGEST_LENGTH + SPACES + PATH_MAX + 2];
    snprintf(line, sizeof line, "%s  %s\n", digest->text, name);
    return append(sums, line, err);
}

int checksums_write(Checksums *sums, const char *folder, Error *err) {
    char path[PATH_MAX], line[sizeof last_line + DIGEST_LENGTH + 1];
    Digest digest = hash_bytes(sums->text, sums->length);
    snprintf(line, sizeof line, "%s%s\n", last_line, digest.text);
    int code = path_join(path, folder, CHECKSUMS_FILE, err);
    if (!code) code = append(sums, line, err);
    if (code) return code;
    NewFile file;
    code = file_begin_plain(&file, path, err);
    if (code) return code;
    code = file_append(&file, sums->text, sums->length, err);
    if (!code) return file_commit(&file, err);
    file_discard(&file);
    return code;
}

void checksums_free(Checksums *sums) {
    free(sums->text);
    *sums = (Checksums){0};
}

// ---- verifying

static bool is_digest(const char *text) { return strspn(text, "0123456789abcdef") >= DIGEST_LENGTH; }

// No way out of the folder: neither absolute nor through "..".
static bool is_inside(const char *name) {
    if (*name == 0 || *name == '/' || strchr(name, '\\')) return false;
    for (const char *part = name; part; part = strchr(part, '/')) {
        if (*part == '/') part++;
        if (*part == 0 || *part == '/' || strcmp(part, "..") == 0 || strncmp(part, "../", 3) == 0) return false;
    }
    return true;
}

// The last line says whether the others are as they were written. *lines = where it begins.
static int check_last_line(const char *text, size_t length, size_t *lines, const char *path, Error *err) {
    const size_t last = sizeof last_line - 1 + DIGEST_LENGTH + 1;
    if (strlen(text) != length || length < last || text[length - 1] != '\n')
        return fail_input(err, "%s: expected it to end with a line \"%s...\": truncated?", path, last_line);
    *lines = length - last;
    Digest digest = hash_bytes(text, *lines);
    const char *found = text + *lines;
    if (strncmp(found, last_line, sizeof last_line - 1) == 0 && (*lines == 0 || found[-1] == '\n') &&
        strncmp(found + sizeof last_line - 1, digest.text, DIGEST_LENGTH) == 0)
        return 0;
    return fail_input(err, "%s: its own checksum is wrong, expected %s: damaged", path, digest.text);
}

static int check_file(const char *folder, const char *expected, const char *name, Error *err) {
    char path[PATH_MAX];
    Digest found;
    int code = path_join(path, folder, name, err);
    if (!code) code = hash_file(path, &found, err);
    if (code || strncmp(found.text, expected, DIGEST_LENGTH) == 0) return code;
    return fail_input(err, "%s: checksum is %s, expected %.*s: damaged", path, found.text, DIGEST_LENGTH, expected);
}

static bool begins(const char *name, const char *with) { return with && strncmp(name, with, strlen(with)) == 0; }

// Weights of the model in that part of the checkpoint ("", "averaged/").
static bool is_weights(const char *name, const char *inside) {
    if (!begins(name, inside)) return false;
    name += strlen(inside);
    return begins(name, needed[1]) || begins(name, of_adapters[1]);
}

// weights_of: NULL for all files, else the part of the checkpoint whose weights are checked.
static int check_line(char *line, bool seen[NEEDED], const char *weights_of, const char *folder, const char *path,
                      Error *err) {
    char *name = line + DIGEST_LENGTH + SPACES;
    if (!is_digest(line) || strncmp(line + DIGEST_LENGTH, "  ", SPACES) != 0)
        return fail_input(err, "%s: line \"%.100s\", expected a checksum of %d digits, two spaces and a file", path,
                          line, DIGEST_LENGTH);
    if (!is_inside(name))
        return fail_input(err, "%s: file \"%.100s\" is not in the folder, expected a path within it", path, name);
    for (int i = 0; i < NEEDED; i++) seen[i] |= begins(name, needed[i]) || begins(name, of_adapters[i]);
    return weights_of && !is_weights(name, weights_of) ? 0 : check_file(folder, line, name, err);
}

// text[length]: whole lines.
static int check_lines(char *text, size_t length, const char *weights_of, const char *folder, const char *path,
                       Error *err) {
    bool seen[NEEDED] = {false};
    for (char *line = text; line < text + length;) {
        char *end = memchr(line, '\n', (size_t)(text + length - line));
        *end = 0;
        int code = check_line(line, seen, weights_of, folder, path, err);
        if (code) return code;
        line = end + 1;
    }
    for (int i = 0; i < NEEDED; i++)
        if (!seen[i]) return fail_input(err, "%s: has no checksum of %s, expected one", path, needed[i]);
    return 0;
}

static int verify(const char *folder, const char *weights_of, Error *err) {
    char path[PATH_MAX], *text = NULL;
    size_t length = 0, lines = 0;
    int code = path_join(path, folder, CHECKSUMS_FILE, err);
    if (!code) code = file_read_whole(path, MAX_BYTES, &text, &length, err);
    if (code) return code;
    code = check_last_line(text, length, &lines, path, err);
    if (!code) code = check_lines(text, lines, weights_of, folder, path, err);
    free(text);
    return code;
}

int checksums_verify(const char *folder, Error *err) { return verify(folder, NULL, err); }

static bool has_checksums(const char *folder) {
    char path[PATH_MAX];
    return path_join(path, folder, CHECKSUMS_FILE, NULL) == 0 && access(path, F_OK) == 0;
}

// Is it the mean over steps of the checkpoint that it lies in? Then checkpoint = that one.
static bool is_averaged(char checkpoint[PATH_MAX], const char *folder) {
    char averaged[PATH_MAX];
    struct stat one, other;
    return path_join(checkpoint, folder, "..", NULL) == 0 && has_checksums(checkpoint) &&
           path_join(averaged, checkpoint, "averaged", NULL) == 0 && stat(folder, &one) == 0 &&
           stat(averaged, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

int checksums_verify_weights(const char *folder, Error *err) {
    char checkpoint[PATH_MAX];
    if (has_checksums(folder)) return verify(folder, "", err);
    return is_averaged(checkpoint, folder) ? verify(checkpoint, "averaged/", err) : 0;
}
