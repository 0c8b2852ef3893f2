// RMSNorm, forward and backward, in one pass over what a layer's projections read. In the backward pass a task owns a fixed run of
// tokens; the gradient of the weight is summed per task and then over tasks in order, whatever the number of threads.

#include "common.h"
#include "program.h"

namespace {

constexpr int64_t ALONE = 1 << 15;  // elements for which it does not pay to wake another thread
constexpr int64_t RUN = 64;

template <class T> float inverse_rms(const T *x, int64_t width, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += load(x[i]) * load(x[i]);
    return 1.f / std::sqrt(sum / width + eps);
}

template <class T, class W> void norm_row(const T *x, const W *weight, T *y, int64_t width, float eps) {
    const float scale = inverse_rms(x, width, eps);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) store(y[i], load(x[i]) * scale * load(weight[i]));
}

template <class T, class W>
void norm(int64_t tokens, int64_t width, int64_t stride, float eps, const T *x, const W *weight, T *y, int threads) {
    if (tokens * width < ALONE) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) norm_row(x + t * stride, weight, y + t * width, width, eps);
}

template <class T>
void backward_row(const T *x, const float *weight, const T *dy, T *dx, float *dweight, int64_t width, float eps) {
    const float scale = inverse_rms(x, width, eps);
    float along = 0;  // the part of the gradient that lies along x, which the norm removes
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < width; i++) along += load(dy[i]) * weight[i] * load(x[i]);
    along *= scale * scale / width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        const float grad = load(dy[i]), value = load(x[i]);
        dweight[i] += grad * value * scale;
        store(dx[i], scale * (grad * weight[i] - value * along));
    }
}

template <class T>
void backward(int64_t tokens, int64_t width, int64_t stride, float eps, const T *x, const float *weight, const T *dy, T *dx, float *dweight,
              int threads) {
    const int64_t runs = (tokens + RUN - 1) / RUN;
    Floats partial(runs * width);
    if (tokens * width < ALONE) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t run = 0; run < runs; run++)
        for (int64_t t = run * RUN; t < std::min(tokens, (run + 1) * RUN); t++)
            backward_row(x + t * stride, weight, dy + t * width, dx + t * width, partial.at(run * width), width, eps);
    std::memset(dweight, 0, width * sizeof(float));
    for (int64_t run = 0; run < runs; run++)
        for (int64_t i = 0; i < width; i++) dweight[i] += partial[run * width + i];
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

// dy and dx lie together, in the type of x.
EXPORT void rms_norm_backward(int64_t is_bf16, int64_t tokens, int64_t width, int64_t stride, float eps, const void *x, const float *weight,
                              const void *dy, void *dx, float *dweight, int64_t threads) {
    if (is_bf16)
        backward(tokens, width, stride, eps, (const bf16 *)x, weight, (const bf16 *)dy, (bf16 *)dx, dweight, threads);
    else
        backward(tokens, width, stride, eps, (const float *)x, weight, (const float *)dy, (float *)dx, dweight, threads);
}

PROGRAMMABLE(rms_norm)
