// merge_memory OUTPUT ADAPTER: merges it into the base that it names and prints by how much that raised the process's peak of
// resident memory, in bytes, and the size of what was read.
#include <stdio.h>

#include "tools/merge.h"
#include "peak.h"

int main(int argc, char **argv) {
    Error err = {0};
    Merge *m = NULL;
    if (argc != 3) return 99;
    const MergeSpec spec = {.adapter = argv[2], .output = argv[1]};
    const long long before = peak();
    int code = merge_open(&m, &spec, &err);
    if (!code) code = merge_write(m, NULL, NULL, &err);
    if (!code) printf("%lld %lld\n", peak() - before, (long long)merge_read_bytes(m));
    if (code) fprintf(stderr, "merge_memory: %s\n", err.message);
    merge_close(m);
    return code;
}
