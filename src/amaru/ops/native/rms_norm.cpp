// RMSNorm and squared ReLU: one pass over what a layer's projections read. Small inputs stay on one thread.

#include "common.h"

namespace {

constexpr int64_t ALONE = 1 << 15;  // elements for which it does not pay to wake another thread

template <class T, class W> void norm_row(const T *x, const W *weight, T *y, int64_t width, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += load(x[i]) * load(x[i]);
    const float scale = 1.f / std::sqrt(sum / width + eps);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) store(y[i], load(x[i]) * scale * load(weight[i]));
}

template <class T, class W>
void norm(int64_t tokens, int64_t width, int64_t stride, float eps, const T *x, const W *weight, T *y, int threads) {
    if (tokens * width < ALONE) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) norm_row(x + t * stride, weight, y + t * width, width, eps);
}

// The square is taken of the rounded x, as torch takes it.
template <class T> void squared_relu_of(int64_t size, const T *x, T *y, int threads) {
    if (size < ALONE) threads = 1;
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < size; i++) {
        const float value = load(x[i]);
        store(y[i], value <= 0.f ? 0.f : value * value);  // so that a NaN stays one
    }
}

}  // namespace

// x [tokens] rows of `width`, `stride` apart; the weight may be of the other type.
EXPORT void rms_norm(int64_t is_bf16, int64_t weight_is_bf16, int64_t tokens, int64_t width, int64_t stride, float eps, const void *x,
                     const void *weight, void *y, int64_t threads) {
    if (is_bf16 && weight_is_bf16)
        norm(tokens, width, stride, eps, (const bf16 *)x, (const bf16 *)weight, (bf16 *)y, threads);
    else if (is_bf16)
        norm(tokens, width, stride, eps, (const bf16 *)x, (const float *)weight, (bf16 *)y, threads);
    else if (weight_is_bf16)
        norm(tokens, width, stride, eps, (const float *)x, (const bf16 *)weight, (float *)y, threads);
    else
        norm(tokens, width, stride, eps, (const float *)x, (const float *)weight, (float *)y, threads);
}

EXPORT void squared_relu(int64_t is_bf16, int64_t size, const void *x, void *y, int64_t threads) {
    if (is_bf16)
        squared_relu_of(size, (const bf16 *)x, (bf16 *)y, threads);
    else
        squared_relu_of(size, (const float *)x, (float *)y, threads);
}
