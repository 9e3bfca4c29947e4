// How kernels whose threads exchange nothing walk over rows: threads along x take the chunks of a row in turn, threads along y
// take rows. Neighbouring threads touch neighbouring chunks, and no element's place costs a division.
#ifndef LLMC_KERNELS_ROWS_H
#define LLMC_KERNELS_ROWS_H

#include "device/launch.h"
#include "device/vec.h"
#include "device/wide_warps.h"

enum { CHUNK = 8 }; // elements a thread handles at a time: one 16-byte access in bf16, two in fp32
// The same in rows of a multiple of 16 elements: on the CPU a vector of 16 floats.
enum { SPAN = HAS_WIDE_WARPS ? 16 : CHUNK };

constexpr int ROWS_BLOCK = 256; // threads of a block
constexpr int WIDE_ROWS = 16;   // rows of a block whose threads have a row each

// While wide_warps() holds, a thread has a whole row: to go over one is then a loop that the compiler sees.
inline dim3 rows_block(int chunks) {
    if (wide_warps()) return dim3(1, WIDE_ROWS);
    int x = 1;
    while (x < chunks && x < ROWS_BLOCK) x *= 2;
    return dim3(x, ROWS_BLOCK / x);
}
inline dim3 rows_grid(int rows, dim3 block) { return dim3(ceil_div(rows, (int)block.y)); }

#endif
