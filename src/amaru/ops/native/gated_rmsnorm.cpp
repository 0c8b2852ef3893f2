// RMSNorm per group of y * silu(z), times weight. A task owns a fixed run of tokens; the gradient of the weight is
// summed per task and then over tasks in order, whatever the number of threads.

#include "common.h"

namespace {

constexpr int64_t RUN = 64;

struct Shape {
    int64_t tokens, inner, groups, y_stride, z_stride;
    float eps;

    int64_t runs() const { return (tokens + RUN - 1) / RUN; }
    int width() const { return inner / groups; }
};

// u = y silu(z) of one group of one token; returns 1 / rms.
template <class T> float gate(const T *y, const T *z, float *u, int width, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < width; i++) {
        const float gate = load(z[i]);
        u[i] = load(y[i]) * gate * sigmoid(gate);
        sum += u[i] * u[i];
    }
    return 1.f / std::sqrt(sum / width + eps);
}

template <class T> void forward(const Shape &s, const T *y, const T *z, const float *weight, T *out, int threads) {
    const int width = s.width();
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t run = 0; run < s.runs(); run++) {
        Floats u(width);
        for (int64_t t = run * RUN; t < std::min(s.tokens, (run + 1) * RUN); t++)
            for (int64_t start = 0; start < s.inner; start += width) {
                const float scale = gate(y + t * s.y_stride + start, z + t * s.z_stride + start, u.data, width, s.eps);
                T *to = out + t * s.inner + start;
#pragma omp simd
                for (int i = 0; i < width; i++) store(to[i], u.data[i] * scale * weight[start + i]);
            }
    }
}

template <class T>
void backward_group(const T *y, const T *z, const float *weight, const T *dout, T *dy, T *dz, float *dweight, float *u, int width, float eps) {
    const float scale = gate(y, z, u, width, eps);
    float along = 0;  // the part of the gradient that lies along u, which the norm removes
#pragma omp simd reduction(+ : along)
    for (int i = 0; i < width; i++) along += load(dout[i]) * weight[i] * u[i];
    along *= scale * scale / width;
#pragma omp simd
    for (int i = 0; i < width; i++) {
        const float grad = load(dout[i]), s = load(z[i]), open = sigmoid(s);
        const float du = scale * (grad * weight[i] - u[i] * along);
        dweight[i] += grad * u[i] * scale;
        store(dy[i], du * s * open);
        store(dz[i], du * load(y[i]) * open * (1.f + s * (1.f - open)));
    }
}

template <class T>
void backward(const Shape &s, const T *y, const T *z, const float *weight, const T *dout, T *dy, T *dz, float *dweight, int threads) {
    const int width = s.width();
    Floats partial(s.runs() * s.inner);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t run = 0; run < s.runs(); run++) {
        Floats u(width);
        for (int64_t t = run * RUN; t < std::min(s.tokens, (run + 1) * RUN); t++)
            for (int64_t start = 0; start < s.inner; start += width) {
                const int64_t place = t * s.inner + start;
                backward_group(y + t * s.y_stride + start, z + t * s.z_stride + start, weight + start, dout + place, dy + place, dz + place,
                               partial.at(run * s.inner + start), u.data, width, s.eps);
            }
    }
    for (int64_t run = 0; run < s.runs(); run++)
        for (int64_t i = 0; i < s.inner; i++) dweight[i] += partial[run * s.inner + i];
}

Shape shape(const int64_t *sizes, float eps) { return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps}; }

}  // namespace

// sizes: tokens, inner, groups, and the strides of y and z from token to token.
EXPORT void norm_forward(int64_t is_bf16, const int64_t *sizes, float eps, const void *y, const void *z, const float *weight, void *out,
                         int64_t threads) {
    if (is_bf16)
        forward(shape(sizes, eps), (const bf16 *)y, (const bf16 *)z, weight, (bf16 *)out, threads);
    else
        forward(shape(sizes, eps), (const float *)y, (const float *)z, weight, (float *)out, threads);
}

// dweight arrives as zeros.
EXPORT void norm_backward(int64_t is_bf16, const int64_t *sizes, float eps, const void *y, const void *z, const float *weight, const void *dout,
                          void *dy, void *dz, float *dweight, int64_t threads) {
    if (is_bf16)
        backward(shape(sizes, eps), (const bf16 *)y, (const bf16 *)z, weight, (const bf16 *)dout, (bf16 *)dy, (bf16 *)dz, dweight, threads);
    else
        backward(shape(sizes, eps), (const float *)y, (const float *)z, weight, (const float *)dout, (float *)dy, (float *)dz, dweight,
                 threads);
}
