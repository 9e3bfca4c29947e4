// The CPU's stand-in for CUDA's vector types: shapes of grids and blocks, and values that are read and written as one.
#ifndef LLMC_CPU_VECTOR_TYPES_H
#define LLMC_CPU_VECTOR_TYPES_H

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

#endif
