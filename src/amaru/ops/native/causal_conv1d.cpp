// Depthwise causal convolution with bias and SiLU. A task owns a strip of rows and walks through all tokens,
// so that sums over tokens are taken in the same order whatever the number of threads.

#include "common.h"

namespace {

constexpr int STRIP = 256, MOST_TAPS = 4;

struct Shape {
    int64_t sequences, rows, taps, stride;  // stride of x from token to token
    const int64_t *bounds;

    int64_t strips() const { return (rows + STRIP - 1) / STRIP; }
};

// The newest rows of a strip as float: `row(k)` is that of k tokens ago. MOST_TAPS is a power of two.
struct Ring {
    alignas(64) float rows[MOST_TAPS][STRIP] = {}, zeros[STRIP] = {};
    unsigned newest = 0;

    float *row(unsigned ago) { return rows[(newest - ago) % MOST_TAPS]; }
    void advance() { newest++; }
};

// As many rows as the loops are compiled for, those behind the last tap being zeros, so that pointers stay in registers.
struct Rows {
    float *row[MOST_TAPS];

    static Rows newest_first(Ring &ring, int taps) {
        Rows rows;
        for (int k = 0; k < MOST_TAPS; k++) rows.row[k] = k < taps ? ring.row(k) : ring.zeros;
        return rows;
    }

    static Rows oldest_first(Ring &ring, int taps) {
        Rows rows;
        for (int k = 0; k < MOST_TAPS; k++) rows.row[k] = k < taps ? ring.row(taps - 1 - k) : ring.zeros;
        return rows;
    }

    float weighted(const float (*weight)[STRIP], int i, float sum) const {
#pragma GCC unroll 4
        for (int k = 0; k < MOST_TAPS; k++) sum += weight[k][i] * row[k][i];
        return sum;
    }
};

template <class T> struct Strip {
    const Shape &s;
    int64_t first;
    int width;
    alignas(64) float weight[MOST_TAPS][STRIP] = {}, bias[STRIP];  // weight[k] meets the input of k tokens ago

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

    const T *input(const T *x, int64_t t) const { return x + t * s.stride + first; }
};

template <class T, bool SILU> void forward_strip(const Strip<T> &strip, const T *x, const T *initial, T *y, T *final) {
    const Shape &s = strip.s;
    const int width = strip.width;
    for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
        Ring inputs;
        strip.begin(inputs, sequence, initial);
        for (int64_t t = s.bounds[sequence]; t < s.bounds[sequence + 1]; t++) {
            inputs.advance();
            const Rows in = Rows::newest_first(inputs, s.taps);
            const T *from = strip.input(x, t);
            T *to = y + t * s.rows + strip.first;
#pragma omp simd
            for (int i = 0; i < width; i++) {
                in.row[0][i] = load(from[i]);
                const float pre = in.weighted(strip.weight, i, strip.bias[i]);
                store(to[i], SILU ? pre * sigmoid(pre) : pre);
            }
        }
        if (!final) continue;
        for (int k = 0; k < s.taps - 1; k++)
            for (int i = 0; i < width; i++) store(final[strip.state(sequence, i) + s.taps - 2 - k], inputs.row(k)[i]);
    }
}

template <class T> struct Gradients {
    const T *dy, *dfinal;
    T *dx, *dinitial;
    float *dweight, *dbias;
};

template <class T, bool SILU> struct Backward {
    const Strip<T> &strip;
    const Gradients<T> &grad;
    const Shape &s;
    const int width, before;
    Ring inputs, outputs;  // inputs, and gradients by what the activation gets
    alignas(64) float dweight[MOST_TAPS][STRIP] = {}, dbias[STRIP] = {}, dinput[STRIP];

    Backward(const Strip<T> &strip, const Gradients<T> &grad)
        : strip(strip), grad(grad), s(strip.s), width(strip.width), before(s.taps - 1) {}

    void sequence(int64_t sequence, const T *x, const T *initial) {
        const int64_t start = s.bounds[sequence], length = s.bounds[sequence + 1] - start;
        inputs = outputs = Ring();
        strip.begin(inputs, sequence, initial);
        for (int64_t t = 0; t < length + before; t++) {
            outputs.advance();
            if (t < length)
                token(strip.input(x, start + t), grad.dy + (start + t) * s.rows + strip.first);
            else
                std::memset(outputs.row(0), 0, sizeof outputs.rows[0]);
            finish(sequence, start, length, t - before);
        }
    }

    void token(const T *x, const T *dy) {
        inputs.advance();
        const Rows in = Rows::newest_first(inputs, s.taps);
        float *dpre = outputs.row(0);
#pragma omp simd
        for (int i = 0; i < width; i++) {
            in.row[0][i] = load(x[i]);
            float d = load(dy[i]);
            if (SILU) {
                const float pre = in.weighted(strip.weight, i, strip.bias[i]), gate = sigmoid(pre);
                d *= gate * (1.f + pre * (1.f - gate));
            }
            dpre[i] = d;
            dbias[i] += d;
#pragma GCC unroll 4
            for (int k = 0; k < MOST_TAPS; k++) dweight[k][i] += d * in.row[k][i];
        }
    }

    // The gradient of the input at `t`, once the outputs up to t + taps - 1 are in the ring; t < 0 is the initial state.
    void finish(int64_t sequence, int64_t start, int64_t length, int64_t t) {
        if (t < 0 && !grad.dinitial) return;
        const Rows out = Rows::oldest_first(outputs, s.taps);
#pragma omp simd
        for (int i = 0; i < width; i++) dinput[i] = out.weighted(strip.weight, i, 0.f);
        if (grad.dfinal && t >= length - before)
            for (int i = 0; i < width; i++) dinput[i] += load(grad.dfinal[strip.state(sequence, i) + t - (length - before)]);
        T *dx = grad.dx + (start + t) * s.rows + strip.first;
        if (t >= 0)
            for (int i = 0; i < width; i++) store(dx[i], dinput[i]);
        else
            for (int i = 0; i < width; i++) store(grad.dinitial[strip.state(sequence, i) + before + t], dinput[i]);
    }

    void write() const {
        for (int i = 0; i < width; i++) {
            grad.dbias[strip.first + i] = dbias[i];
            for (int k = 0; k < s.taps; k++) grad.dweight[(strip.first + i) * s.taps + s.taps - 1 - k] = dweight[k][i];
        }
    }
};

template <class T, bool SILU>
void forward(const Shape &s, const void *x, const float *weight, const float *bias, const void *initial, void *y, void *final, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t strip = 0; strip < s.strips(); strip++)
        forward_strip<T, SILU>(Strip<T>(s, strip, weight, bias), (const T *)x, (const T *)initial, (T *)y, (T *)final);
}

template <class T, bool SILU>
void backward(const Shape &s, const void *x, const float *weight, const float *bias, const void *initial, const Gradients<T> &grad,
              int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t number = 0; number < s.strips(); number++) {
        const Strip<T> strip(s, number, weight, bias);
        Backward<T, SILU> task(strip, grad);
        for (int64_t sequence = 0; sequence < s.sequences; sequence++) task.sequence(sequence, (const T *)x, (const T *)initial);
        task.write();
    }
}

}  // namespace

// sizes: sequences, rows, taps, stride of x. Everything but weight, bias and their gradients is in x's type; the rest of the
// states may be null.
EXPORT void conv_forward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, int64_t silu, const void *x, const float *weight,
                         const float *bias, const void *initial, void *y, void *final, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], bounds};
    const auto serve = is_bf16 ? (silu ? forward<bf16, true> : forward<bf16, false>) : (silu ? forward<float, true> : forward<float, false>);
    serve(s, x, weight, bias, initial, y, final, threads);
}

EXPORT void conv_backward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, int64_t silu, const void *x, const float *weight,
                          const float *bias, const void *initial, const void *dy, const void *dfinal, void *dx, void *dinitial,
                          float *dweight, float *dbias, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], bounds};
    if (is_bf16) {
        const Gradients<bf16> grad{(const bf16 *)dy, (const bf16 *)dfinal, (bf16 *)dx, (bf16 *)dinitial, dweight, dbias};
        (silu ? backward<bf16, true> : backward<bf16, false>)(s, x, weight, bias, initial, grad, threads);
    } else {
        const Gradients<float> grad{(const float *)dy, (const float *)dfinal, (float *)dx, (float *)dinitial, dweight, dbias};
        (silu ? backward<float, true> : backward<float, false>)(s, x, weight, bias, initial, grad, threads);
    }
}
