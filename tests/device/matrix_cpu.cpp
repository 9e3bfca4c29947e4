// host_multiply and host_round for test_matrix_cpu.py, compiled with the instructions that the test chooses.
#include "device/matrix_cpu.cpp"

template <typename T>
static void multiply(float *c, int c_stride, bool add, const T *a, int a_stride, bool a_transposed, const T *b,
                     int b_stride, bool b_transposed, int rows, int n, int k) {
    host_multiply({c, c_stride, add}, HostMatrix<T>{a, a_stride, a_transposed}, HostMatrix<T>{b, b_stride, b_transposed},
                  rows, n, k);
}

#define ARGUMENTS(T)                                                                                                   \
    float *c, int cs, bool add, const T *a, int as, bool at, const T *b, int bs, bool bt, int rows, int n, int k
extern "C" void multiply_bf16(ARGUMENTS(__nv_bfloat16)) { multiply(c, cs, add, a, as, at, b, bs, bt, rows, n, k); }
extern "C" void multiply_fp32(ARGUMENTS(float)) { multiply(c, cs, add, a, as, at, b, bs, bt, rows, n, k); }
extern "C" void round_all(__nv_bfloat16 *to, const float *from, int count) { host_round(to, from, count); }
