// Depthwise causal convolution with bias and SiLU. A task owns a strip of rows and walks through all tokens,
// so that sums over tokens are taken in the same order whatever the number of threads.

#include "common.h"

namespace {

constexpr int STRIP = 128, MOST_TAPS = 8;

struct Shape {
    int64_t sequences, rows, taps, stride;  // stride of x from token to token
    const int64_t *bounds;
    bool silu;
};

// The newest rows of a strip as float: `row(k)` is that of k tokens ago. MOST_TAPS is a power of two.
struct Ring {
    alignas(64) float rows[MOST_TAPS][STRIP] = {};
    unsigned newest = 0;

    float *row(unsigned ago) { return rows[(newest - ago) % MOST_TAPS]; }
    void advance() { newest++; }
};

inline void add_product(float *to, const float *a, const float *b, int n) {
#pragma omp simd
    for (int i = 0; i < n; i++) to[i] += a[i] * b[i];
}

template <class T> void activate(const float *pre, T *y, int n, bool silu) {
    if (!silu) {
        for (int i = 0; i < n; i++) store(y[i], pre[i]);
        return;
    }
#pragma omp simd
    for (int i = 0; i < n; i++) store(y[i], pre[i] * sigmoid(pre[i]));
}

template <class T> void activate_backward(const float *pre, const T *dy, float *dpre, int n, bool silu) {
    if (!silu) {
        for (int i = 0; i < n; i++) dpre[i] = load(dy[i]);
        return;
    }
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float gate = sigmoid(pre[i]);
        dpre[i] = load(dy[i]) * gate * (1.f + pre[i] * (1.f - gate));
    }
}

template <class T> struct Strip {
    const Shape &s;
    int64_t first;
    int width;
    float weight[MOST_TAPS][STRIP], bias[STRIP];  // weight[k] meets the input of k tokens ago

    Strip(const Shape &s, int64_t strip, const float *weights, const float *biases)
        : s(s), first(strip * STRIP), width(std::min<int64_t>(STRIP, s.rows - strip * STRIP)) {
        for (int i = 0; i < width; i++) {
            bias[i] = biases[first + i];
            for (int k = 0; k < s.taps; k++) weight[k][i] = weights[(first + i) * s.taps + s.taps - 1 - k];
        }
    }

    int64_t state(int64_t sequence, int i) const { return (sequence * s.rows + first + i) * (s.taps - 1); }

    // After this, row(k) of the ring is the input k + 1 tokens before the start; `advance` makes room for the first token.
    void begin(Ring &ring, int64_t sequence, const T *initial) const {
        for (int k = 0; k < s.taps - 1; k++)
            for (int i = 0; i < width; i++) ring.row(k)[i] = initial ? load(initial[state(sequence, i) + s.taps - 2 - k]) : 0.f;
    }

    void read(Ring &ring, const T *x, int64_t t) const {
        ring.advance();
        float *row = ring.row(0);
        for (int i = 0; i < width; i++) row[i] = load(x[t * s.stride + first + i]);
    }

    void sum(Ring &inputs, float *pre) const {
        std::memcpy(pre, bias, sizeof bias);
        for (int k = 0; k < s.taps; k++) add_product(pre, weight[k], inputs.row(k), width);
    }
};

template <class T> void forward_strip(const Strip<T> &strip, const T *x, const T *initial, T *y, T *final) {
    const Shape &s = strip.s;
    float pre[STRIP];
    for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
        Ring inputs;
        strip.begin(inputs, sequence, initial);
        for (int64_t t = s.bounds[sequence]; t < s.bounds[sequence + 1]; t++) {
            strip.read(inputs, x, t);
            strip.sum(inputs, pre);
            activate(pre, y + t * s.rows + strip.first, strip.width, s.silu);
        }
        if (!final) continue;
        for (int k = 0; k < s.taps - 1; k++)
            for (int i = 0; i < strip.width; i++) store(final[strip.state(sequence, i) + s.taps - 2 - k], inputs.row(k)[i]);
    }
}

template <class T> struct Gradients {
    const T *dy, *dfinal;
    T *dx, *dinitial;
    float *dweight, *dbias;
};

template <class T> void backward_strip(const Strip<T> &strip, const T *x, const T *initial, const Gradients<T> &grad) {
    const Shape &s = strip.s;
    const int width = strip.width, before = s.taps - 1;
    float dweight[MOST_TAPS][STRIP] = {}, dbias[STRIP] = {}, pre[STRIP], dinput[STRIP], ones[STRIP];
    std::fill_n(ones, STRIP, 1.f);
    // The gradient of the input at `t`, once the outputs up to t + taps - 1 are in the ring; t < 0 is the initial state.
    auto finish = [&](Ring &outputs, int64_t sequence, int64_t t) {
        const int64_t start = s.bounds[sequence], length = s.bounds[sequence + 1] - start;
        std::memset(dinput, 0, sizeof dinput);
        for (int k = 0; k < s.taps; k++) add_product(dinput, strip.weight[k], outputs.row(before - k), width);
        if (grad.dfinal && t >= length - before)
            for (int i = 0; i < width; i++) dinput[i] += load(grad.dfinal[strip.state(sequence, i) + t - (length - before)]);
        if (t >= 0)
            for (int i = 0; i < width; i++) store(grad.dx[(start + t) * s.rows + strip.first + i], dinput[i]);
        else if (grad.dinitial)
            for (int i = 0; i < width; i++) store(grad.dinitial[strip.state(sequence, i) + before + t], dinput[i]);
    };
    for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
        const int64_t start = s.bounds[sequence], length = s.bounds[sequence + 1] - start;
        Ring inputs, outputs;
        strip.begin(inputs, sequence, initial);
        for (int64_t t = 0; t < length + before; t++) {
            outputs.advance();
            float *dpre = outputs.row(0);
            if (t < length) {
                strip.read(inputs, x, start + t);
                strip.sum(inputs, pre);
                activate_backward(pre, grad.dy + (start + t) * s.rows + strip.first, dpre, width, s.silu);
                add_product(dbias, dpre, ones, width);
                for (int k = 0; k < s.taps; k++) add_product(dweight[k], dpre, inputs.row(k), width);
            } else
                std::memset(dpre, 0, sizeof pre);
            finish(outputs, sequence, t - before);
        }
    }
    for (int i = 0; i < width; i++) {
        grad.dbias[strip.first + i] = dbias[i];
        for (int k = 0; k < s.taps; k++) grad.dweight[(strip.first + i) * s.taps + s.taps - 1 - k] = dweight[k][i];
    }
}

template <class T>
void forward(const Shape &s, const void *x, const float *weight, const float *bias, const void *initial, void *y, void *final, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t strip = 0; strip < (s.rows + STRIP - 1) / STRIP; strip++)
        forward_strip(Strip<T>(s, strip, weight, bias), (const T *)x, (const T *)initial, (T *)y, (T *)final);
}

template <class T>
void backward(const Shape &s, const void *x, const float *weight, const float *bias, const void *initial, const Gradients<T> &grad,
              int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t strip = 0; strip < (s.rows + STRIP - 1) / STRIP; strip++)
        backward_strip(Strip<T>(s, strip, weight, bias), (const T *)x, (const T *)initial, grad);
}

}  // namespace

// sizes: sequences, rows, taps, stride of x. Everything but weight, bias and their gradients is in x's type; the rest of the
// states may be null.
EXPORT void conv_forward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, int64_t silu, const void *x, const float *weight,
                         const float *bias, const void *initial, void *y, void *final, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], bounds, silu != 0};
    (is_bf16 ? forward<bf16> : forward<float>)(s, x, weight, bias, initial, y, final, threads);
}

EXPORT void conv_backward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, int64_t silu, const void *x, const float *weight,
                          const float *bias, const void *initial, const void *dy, const void *dfinal, void *dx, void *dinitial,
                          float *dweight, float *dbias, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], bounds, silu != 0};
    if (is_bf16)
        backward<bf16>(s, x, weight, bias, initial,
                       {(const bf16 *)dy, (const bf16 *)dfinal, (bf16 *)dx, (bf16 *)dinitial, dweight, dbias}, threads);
    else
        backward<float>(s, x, weight, bias, initial,
                        {(const float *)dy, (const float *)dfinal, (float *)dx, (float *)dinitial, dweight, dbias}, threads);
}
