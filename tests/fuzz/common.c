#include "common.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void write_all(int fd, const uint8_t *data, size_t size) {
    if (ftruncate(fd, 0) != 0) fail("ftruncate");
    for (size_t done = 0; done < size;) {
        ssize_t put = pwrite(fd, data + done, size - done, (off_t)done);
        if (put <= 0) fail("pwrite");
        done += (size_t)put;
    }
}

const char *fuzz_file(const uint8_t *data, size_t size) {
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        if (fd < 0) fail("memfd_create");
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    write_all(fd, data, size);
    return path;
}

static char folder[64];

static void remove_folder(void) {
    rmdir(folder); // the targets remove what they wrote
}

const char *fuzz_folder(void) {
    if (folder[0] != 0) return folder;
    const char *root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/llmc-fuzz-XXXXXX", root);
    if (mkdtemp(folder) == NULL) fail(folder);
    atexit(remove_folder);
    return folder;
}

static void path_in_folder(char path[128], const char *name) { snprintf(path, 128, "%s/%s", fuzz_folder(), name); }

void fuzz_write(const char *name, const uint8_t *data, size_t size) {
    char path[128];
    path_in_folder(path, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) fail(path);
    write_all(fd, data, size);
    close(fd);
}

void fuzz_remove(const char *name) {
    char path[128];
    path_in_folder(path, name);
    unlink(path);
}

void fuzz_demand(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz: does not hold: %s\n", what);
    abort();
}

void fuzz_demand_code(int code, int error_code, const char *message) {
    fuzz_demand(code >= 0 && code <= 2, "the code is 0, 1 or 2");
    if (code == 0) return;
    fuzz_demand(code == error_code && message[0] != 0, "an error has its code and a message");
    fuzz_demand(strpbrk(message, "\n\r\x1b") == NULL, "the message is one line");
}

// ---- Mutations

unsigned fuzz_random(unsigned *state, unsigned below) {
    *state = *state * 1664525u + 1013904223u;
    return below == 0 ? 0 : (*state >> 8) % below;
}

static int is_number(uint8_t c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

// One of the runs of digits, chosen at random: [*begin, *end); equal where there is none.
static void pick_number(const uint8_t *text, size_t size, unsigned *random, size_t *begin, size_t *end) {
    size_t found = 0;
    *begin = *end = 0;
    for (size_t at = 0; at < size;) {
        size_t from = at;
        while (at < size && is_number(text[at])) at++;
        int has_digit = 0;
        for (size_t i = from; i < at; i++) has_digit |= text[i] >= '0' && text[i] <= '9';
        if (has_digit && fuzz_random(random, (unsigned)++found) == 0) *begin = from, *end = at;
        if (at == from) at++;
    }
}

// text[begin, end) becomes piece; the text stays as it is where it would not fit.
static size_t replace(uint8_t *text, size_t size, size_t max_size, size_t begin, size_t end, const void *piece,
                      size_t length) {
    size_t changed = size - (end - begin) + length;
    if (changed > max_size) return size;
    memmove(text + begin + length, text + end, size - end);
    memcpy(text + begin, piece, length);
    return changed;
}

size_t fuzz_change_number(uint8_t *text, size_t size, size_t max_size, unsigned *random) {
    static const char *const borders[] = {"0",
                                          "1",
                                          "2",
                                          "4",
                                          "8",
                                          "16",
                                          "-1",
                                          "0.5",
                                          "1e400",
                                          "-0",
                                          "65535",
                                          "65536",
                                          "2147483647",
                                          "2147483648",
                                          "4294967295",
                                          "4294967296",
                                          "1e19",
                                          "16777216",
                                          "1073741824",
                                          "9007199254740992",
                                          "9007199254740993",
                                          "18446744073709551615",
                                          "9223372036854775807",
                                          "4611686018427387904",
                                          "true"};
    size_t begin, end, from, to;
    char text_of[48];
    pick_number(text, size, random, &begin, &end);
    switch (fuzz_random(random, 3)) {
    case 0: {
        const char *border = borders[fuzz_random(random, sizeof borders / sizeof *borders)];
        return replace(text, size, max_size, begin, end, border, strlen(border));
    }
    case 1: { // a neighbour
        size_t digits = end - begin < sizeof text_of ? end - begin : sizeof text_of - 1;
        memcpy(text_of, text + begin, digits); // a copy, as nothing ends a number that ends the text
        text_of[digits] = 0;
        long long value = strtoll(text_of, NULL, 10);
        long long step = (long long)fuzz_random(random, 9) - 4;
        int length = snprintf(text_of, sizeof text_of, "%lld", (long long)((uint64_t)value + (uint64_t)step));
        return replace(text, size, max_size, begin, end, text_of, (size_t)length);
    }
    default: // another number of the text
        pick_number(text, size, random, &from, &to);
        if (to - from > sizeof text_of) return size;
        memcpy(text_of, text + from, to - from);
        return replace(text, size, max_size, begin, end, text_of, to - from);
    }
}

size_t fuzz_copy_piece(uint8_t *text, size_t size, size_t max_size, unsigned *random) {
    if (size == 0) return size;
    size_t begin = fuzz_random(random, (unsigned)size), end;
    while (begin > 0 && strchr("{[,", text[begin]) == NULL) begin--;
    end = begin + 1;
    int depth = 0;
    while (end < size && !(depth <= 0 && strchr(",}]", text[end]) != NULL)) {
        depth += (text[end] == '{' || text[end] == '[') - (text[end] == '}' || text[end] == ']');
        end++;
    }
    uint8_t *piece = malloc(end - begin + 1);
    if (piece == NULL) return size;
    size_t length = end - begin;
    memcpy(piece, text + begin, length);
    piece[0] = ',';
    // under another name half of the time, without which it would only be refused as a second one
    uint8_t *name = memchr(piece, '"', length);
    if (name != NULL && name + 1 < piece + length && name[1] != '"' && fuzz_random(random, 2))
        name[1] = (uint8_t)('a' + fuzz_random(random, 26));
    size_t at = fuzz_random(random, 2) ? end : fuzz_random(random, (unsigned)size);
    size_t changed = replace(text, size, max_size, at, at, piece, length);
    free(piece);
    return changed;
}

size_t fuzz_mutate_json(uint8_t *text, size_t size, size_t max_size, unsigned *random) {
    switch (fuzz_random(random, 4)) {
    case 0:
        return fuzz_change_number(text, size, max_size, random);
    case 1:
        return fuzz_copy_piece(text, size, max_size, random);
    default:
        return LLVMFuzzerMutate(text, size, max_size);
    }
}
