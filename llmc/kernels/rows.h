// How kernels whose threads exchange nothing walk over rows: threads along x take the chunks of a row in turn, threads along y
// take rows. Neighbouring threads touch neighbouring chunks, and no element's place costs a division.
#ifndef LLMC_KERNELS_ROWS_H
#define LLMC_KERNELS_ROWS_H

#include "device/launch.h"
#include "device/vec.h"

enum { CHUNK = 8 }; // elements a thread handles at a time: one 16-byte access in bf16, two in fp32

constexpr int ROWS_BLOCK = 256; // threads of a block

inline dim3 rows_block(int chunks) {
    int x = 1;
    while (x < chunks && x < ROWS_BLOCK) x *= 2;
    return dim3(x, ROWS_BLOCK / x);
}
inline dim3 rows_grid(int rows, dim3 block) { return dim3(ceil_div(rows, (int)block.y)); }

#endif
