// Launches that a GPU would refuse: argument 1 picks the case, argument 2 is `launch` or `pointwise`.
#include "device/launch.h"
static __global__ void nothing_kernel() {}
static __global__ void barrier_kernel() { __syncthreads(); }
int main(int, char **argv) {
    dim3 grids[] = {1, 1, 1, dim3(1, 65536), dim3(1, 1, 65536), 0, 1, 1, 1};
    dim3 blocks[] = {48, 2048, 0, 32, 32, 32, 32, 32, dim3(1, 1, 96)};
    int i = argv[1][0] - '0';
    if (i == 7) launch_pointwise(barrier_kernel, 1, 32, nullptr);
    else if (argv[2][0] == 'p') launch_pointwise(nothing_kernel, grids[i], blocks[i], nullptr);
    else launch(nothing_kernel, grids[i], blocks[i], i == 6 ? 100 * 1024 : 0, nullptr);
    return 0;
}
