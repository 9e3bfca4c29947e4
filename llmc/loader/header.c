#include "loader/header.h"

#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "loader/file_kind.h"

static const uint32_t byte_order_mark = 0x01020304;

int header_check(const uint8_t *header, size_t count, const char magic[8], uint32_t version, const char *kind,
                 const char *path, Error *err) {
    char digits[17];
    if (memcmp(header, magic, count < 8 ? count : 8) != 0) {
        text_hex(digits, header, count < 8 ? count : 8);
        return fail_input(err, "%s: expected %s, found %s (magic %s, not \"%s\" and a zero)", path, kind,
                          file_kind(header, count), digits, magic);
    }
    if (count < HEADER_BYTES)
        return fail_input(err, "%s: file has %zu bytes, expected at least the %d of the header of %s", path, count,
                          HEADER_BYTES, kind);
    const uint32_t mark = load_u32(header + 12); // before the version, which it says how to read
    if (mark != byte_order_mark)
        return fail_input(err, "%s: byte order mark is 0x%08x, expected 0x%08x%s", path, mark, byte_order_mark,
                          mark == 0x04030201 ? ": written big endian" : "");
    const uint32_t found = load_u32(header + 8);
    if (found != version) return fail_input(err, "%s: version is %u, expected %u", path, found, version);
    return 0;
}

int header_check_zero(const uint8_t *header, int begin, int end, const char *path, Error *err) {
    for (int i = begin; i < end; i++)
        if (header[i] != 0) return fail_input(err, "%s: header byte %d is %u, expected 0", path, i, header[i]);
    return 0;
}

int header_read(uint8_t *header, size_t *count, int fd, uint64_t size, const char *path, Error *err) {
    *count = size < HEADER_BYTES ? (size_t)size : HEADER_BYTES;
    memset(header, 0, HEADER_BYTES);
    return file_read_at(fd, header, *count, 0, path, err);
}
