#include "base/header.h"

#include <string.h>

static const uint32_t byte_order_mark = 0x01020304;

int header_check(const uint8_t *header, const char magic[8], uint32_t version, const char *kind, const char *path,
                 Error *err) {
    if (memcmp(header, magic, 8) != 0)
        return fail_input(err, "%s: magic is %02x%02x%02x%02x%02x%02x%02x%02x, expected \"%s\" and a zero: not a %s",
                          path, header[0], header[1], header[2], header[3], header[4], header[5], header[6], header[7],
                          magic, kind);
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
