// Prints, as JSON, the layouts that CuTe publishes for the instructions of device/ptx: for each lane the
// positions of the values it holds. mma: position in the matrix as [row, column]; ldmatrix: 16-bit element in
// the four matrices' memory.
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/tensor.hpp>
#include <cstdio>

using namespace cute;

// CuTe numbers the elements of a rows x columns matrix columns first: index = row + rows * column.
template <typename Layout> void print_matrix(const char *name, Layout layout, int values, int rows) {
    printf("\"%s\": [", name);
    for (int lane = 0; lane < 32; lane++) {
        printf("%s[", lane ? ", " : "");
        for (int v = 0; v < values; v++) {
            int index = (int)layout(lane, v);
            printf("%s[%d, %d]", v ? ", " : "", index % rows, index / rows);
        }
        printf("]");
    }
    printf("],\n");
}

// Layouts are in bits; 8 elements of 16 bits a lane.
template <typename Layout> void print_elements(const char *name, Layout layout, const char *end) {
    printf("\"%s\": [", name);
    for (int lane = 0; lane < 32; lane++) {
        printf("%s[", lane ? ", " : "");
        for (int v = 0; v < 8; v++) printf("%s%d", v ? ", " : "", (int)layout(lane, 16 * v) / 16);
        printf("]");
    }
    printf("]%s\n", end);
}

int main() {
    using Mma = MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>;
    using Plain = Copy_Traits<SM75_U32x4_LDSM_N>;
    using Transposed = Copy_Traits<SM75_U16x8_LDSM_T>;
    printf("{\n");
    print_matrix("A", Mma::ALayout{}, 8, 16); // [m, k]
    print_matrix("B", Mma::BLayout{}, 4, 8);  // [n, k]
    print_matrix("C", Mma::CLayout{}, 4, 16); // [m, n]
    print_elements("plain_source", Plain::SrcLayout{}, ",");
    print_elements("plain_result", Plain::DstLayout{}, ",");
    print_elements("transposed_source", Transposed::SrcLayout{}, ",");
    print_elements("transposed_result", Transposed::DstLayout{}, "");
    printf("}\n");
}
