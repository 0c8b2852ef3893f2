// Squared ReLU, forward and backward, in one pass. Small inputs stay on one thread.

#include "common.h"
#include "program.h"
#include "team.h"

namespace {

constexpr int64_t ALONE = 1 << 15;  // elements for which it does not pay to wake another thread

// The square is taken of the rounded x, as torch takes it; `<=` lets a NaN stay one.
template <class T> void forward(int64_t size, const T *x, T *y, int threads) {
    if (size < ALONE) threads = 1;
    share((size + ALONE - 1) / ALONE, threads, [&](int64_t part) {
        const int64_t last = std::min(size, (part + 1) * ALONE);
#pragma omp simd
        for (int64_t i = part * ALONE; i < last; i++) {
            const float value = load(x[i]);
            store(y[i], value <= 0.f ? 0.f : value * value);
        }
    });
}

template <class T> void backward(int64_t size, const T *x, const T *dy, T *dx, int threads) {
    if (size < ALONE) threads = 1;
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < size; i++) {
        const float value = load(x[i]);
        store(dx[i], value <= 0.f ? 0.f : 2.f * value * load(dy[i]));
    }
}

}  // namespace

EXPORT void squared_relu(int64_t is_bf16, int64_t size, const void *x, void *y, int64_t threads) {
    if (is_bf16)
        forward(size, (const bf16 *)x, (bf16 *)y, threads);
    else
        forward(size, (const float *)x, (float *)y, threads);
}

EXPORT void squared_relu_backward(int64_t is_bf16, int64_t size, const void *x, const void *dy, void *dx, int64_t threads) {
    if (is_bf16)
        backward(size, (const bf16 *)x, (const bf16 *)dy, (bf16 *)dx, threads);
    else
        backward(size, (const float *)x, (const float *)dy, (float *)dx, threads);
}

PROGRAMMABLE(squared_relu)
