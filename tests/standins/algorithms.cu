// Products for test_matmul_algorithms.py: algorithms [FILE times|reads]. [8,32]·[32,48] three times into floatX, then added twice
// to fp32. Prints whether the results are right and how many products each of the stand-in's proposals was asked for; or the
// error of the file.
#include <stdint.h>
#include <string.h>

#include "device/device.h"
#include "device/matmul.h"

extern "C" uint64_t standin_products(int variant);

enum { M = 8, N = 48, K = 32 };

template <typename T> static T *on_device(const T *values, size_t count) {
    T *memory;
    cuda_check(cudaMalloc((void **)&memory, count * sizeof(T)));
    cuda_check(cudaMemcpy(memory, values, count * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
}

// Small whole numbers, whose products and sums are exact in bf16 and fp32.
static int number(int i, int j) { return (i * 7 + j * 3) % 5 - 2; }

int main(int argc, char **argv) {
    Error err = {};
    if (argc == 3 && matmul_use_algorithms(argv[1], strcmp(argv[2], "times") == 0, &err)) {
        printf("%d %s\n", err.code, err.message);
        return 0;
    }
    static floatX a[M * K], b[K * N], y[M * N];
    static float d[M * N];
    for (int i = 0; i < M * K; i++) a[i] = (floatX)(float)number(i / K, i % K);
    for (int i = 0; i < K * N; i++) b[i] = (floatX)(float)number(i / N, i % N);
    for (int i = 0; i < M * N; i++) d[i] = (float)i;
    floatX *at_a = on_device(a, M * K), *at_b = on_device(b, K * N), *at_y = on_device(y, M * N);
    float *at_d = on_device(d, M * N);
    for (int i = 0; i < 3; i++) matmul(at_y, MATMUL_OUT_FLOATX, at_a, at_b, M, N, K, false, false, false, nullptr);
    for (int i = 0; i < 2; i++) matmul(at_d, MATMUL_OUT_FP32, at_a, at_b, M, N, K, false, false, true, nullptr);
    cuda_check(cudaMemcpy(y, at_y, sizeof y, cudaMemcpyDeviceToHost));
    cuda_check(cudaMemcpy(d, at_d, sizeof d, cudaMemcpyDeviceToHost));
    bool right = true;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            int sum = 0;
            for (int k = 0; k < K; k++) sum += number(i, k) * number(k, j);
            const int at = i * N + j;
            right = right && (float)y[at] == (float)sum && d[at] == (float)(at + 2 * sum);
        }
    printf("%s", right ? "right" : "wrong");
    for (int variant = 0; variant < 4; variant++) printf(" %d", (int)standin_products(variant));
    printf("\n");
    return 0;
}
