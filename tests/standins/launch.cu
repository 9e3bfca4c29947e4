// The cuda half of llmc/device/launch.h, compiled against NVIDIA's own header, over a runtime that records.
//
//   launch                  launches, and prints what the runtime was given: a line each
//   launch CASE             one that a GPU refuses: shared-memory, threads, grid; big-shared-memory: one that some refuse
#include <stdio.h>
#include <string.h>

#include "../../dev/standins/launches.h"
#include "device/launch.h"

template <int HD, int WARPS> static void wide_kernel(float *out, const int *in, long count, float scale) {
    printf("a kernel ran: %p %p %ld %g\n", (void *)out, (const void *)in, count, scale); // the runtime runs none
}

static void narrow_kernel(int n) { printf("a kernel ran: %d\n", n); }

static void tell(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    const dim3 grid = config->gridDim, block = config->blockDim;
    printf("grid %u %u %u block %u %u %u shared %zu stream %zu attributes %u ", grid.x, grid.y, grid.z, block.x,
           block.y, block.z, config->dynamicSmemBytes, (size_t)config->stream, config->numAttrs);
    if (kernel == (const void *)narrow_kernel)
        printf("narrow %d\n", *(int *)arguments[0]);
    else
        printf("wide %zu %zu %ld %g\n", *(size_t *)arguments[0], *(size_t *)arguments[1], *(long *)arguments[2],
               *(float *)arguments[3]);
}

static void launch_well() {
    const cudaStream_t stream = (cudaStream_t)4096;
    float *out = (float *)256;
    int *in = (int *)512; // loses nothing by becoming const
    launch(narrow_kernel, 1, 32, 0, stream, 7L);
    launch((wide_kernel<64, 4>), dim3(3, 2, 5), dim3(32, 4, 2), 48 * 1024, stream, out, in, 9, 0.5);
    launch((wide_kernel<128, 8>), 8, 256, 99 * 1024, (cudaStream_t) nullptr, out, in, 10L, 2);
    launch_pointwise(narrow_kernel, dim3(ceil_div(1000, 256)), 256, stream, true);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    standin_on_launch = tell;
    if (!*what) launch_well();
    if (!strcmp(what, "shared-memory")) launch(narrow_kernel, 1, 32, 228 * 1024, (cudaStream_t) nullptr, 1);
    if (!strcmp(what, "big-shared-memory")) launch(narrow_kernel, 1, 32, 227 * 1024, (cudaStream_t) nullptr, 1);
    if (!strcmp(what, "threads")) launch(narrow_kernel, 1, 1056, 0, (cudaStream_t) nullptr, 1);
    if (!strcmp(what, "grid")) launch_pointwise(narrow_kernel, dim3(1, 65536), 32, (cudaStream_t) nullptr, 1);
    return 0;
}
