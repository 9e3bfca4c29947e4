// The rotation of RoPE, for kernels.
#ifndef LLMC_KERNELS_ROPE_ROTATE_H
#define LLMC_KERNELS_ROPE_ROTATE_H

#include "kernels/rows.h"

// a: a chunk of a head's first half, b: its partner of the second half, HD/2 elements on. (a, b) becomes
// (a cos - b sin, b cos + a sin). rotations: the chunk's pairs of cosine and sine (rope_table). direction: 1, or -1 for
// the rotation back.
__device__ __forceinline__ void rotate_chunk(float (&a)[CHUNK], float (&b)[CHUNK], const float *rotations,
                                             float direction) {
    float rotation[2 * CHUNK];
    load_vec(rotation, rotations);
    EACH_ELEMENT
    for (int k = 0; k < CHUNK; k++) {
        float cosine = rotation[2 * k], sine = direction * rotation[2 * k + 1];
        float a_new = a[k] * cosine - b[k] * sine;
        b[k] = b[k] * cosine + a[k] * sine;
        a[k] = a_new;
    }
}

#endif
