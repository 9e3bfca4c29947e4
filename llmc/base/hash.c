#include "base/hash.h"

#define XXH_INLINE_ALL // the header is the library: nothing to link, nothing that has to travel with a binary
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"

enum { READ_BYTES = 4 << 20 };

struct Hasher {
    XXH3_state_t *state;
};

static Digest as_text(XXH128_hash_t hash) {
    Digest digest;
    snprintf(digest.text, sizeof digest.text, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
    return digest;
}

Digest hash_bytes(const void *data, size_t bytes) { return as_text(XXH3_128bits(data, bytes)); }

Hasher *hasher_create(void) {
    Hasher *hasher = malloc(sizeof *hasher);
    if (hasher == NULL) return NULL;
    hasher->state = XXH3_createState(); // it wants an alignment that malloc does not promise
    if (hasher->state == NULL) {
        free(hasher);
        return NULL;
    }
    XXH3_128bits_reset(hasher->state);
    return hasher;
}

void hasher_add(Hasher *hasher, const void *data, size_t bytes) { XXH3_128bits_update(hasher->state, data, bytes); }

Digest hasher_digest(const Hasher *hasher) { return as_text(XXH3_128bits_digest(hasher->state)); }

void hasher_destroy(Hasher *hasher) {
    if (hasher == NULL) return;
    XXH3_freeState(hasher->state);
    free(hasher);
}

static int add_opened(Hasher *hasher, int fd, uint64_t size, char *piece, const char *path, Error *err) {
    for (uint64_t done = 0; done < size;) {
        size_t bytes = size - done < READ_BYTES ? (size_t)(size - done) : READ_BYTES;
        int code = file_read_at(fd, piece, bytes, done, path, err);
        if (code != 0) return code;
        hasher_add(hasher, piece, bytes);
        done += bytes;
    }
    return 0;
}

int hash_file(const char *path, Digest *digest, Error *err) {
    int fd;
    uint64_t size;
    int code = file_open_read(path, &fd, &size, err);
    if (code != 0) return code;
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    Hasher *hasher = hasher_create();
    char *piece = malloc(READ_BYTES);
    code = hasher != NULL && piece != NULL ? add_opened(hasher, fd, size, piece, path, err)
                                           : fail_fault(err, "%s: no memory to read it", path);
    if (code == 0) *digest = hasher_digest(hasher);
    free(piece);
    hasher_destroy(hasher);
    close(fd);
    return code;
}
