// The scan of Mamba-1, forward and backward. For a channel with the state h [state] and u_t = dt_t x_t:
//
//     h_t = a_t ∘ h_{t-1} + u_t B_t        a_t = exp(dt_t A)
//     y_t = C_t · h_t + D x_t
//
// The gradient g_t of the loss by h_t runs in the other direction, and everything else follows from g and h:
//
//     g_t = dy_t C_t + a_{t+1} ∘ g_{t+1}        l_t = a_t ∘ g_t ∘ h_{t-1}   (by dt_t A: what passes over the step into t)
//     dB_t = Σ u_t g_t    dC_t = Σ dy_t h_t     (over channels)
//     du_t = B_t · g_t    dx_t = dt_t du_t + D dy_t    ddt_t = x_t du_t + A · l_t    dA = Σ dt_t l_t    dD = Σ dy_t x_t
//
// Vectors lie along the channels. Of a chunk of tokens one index of the state is taken after the other, so that h, g, A and
// dA stay in registers while it runs. The forward pass leaves the states at chunk starts; within a chunk the backward pass
// computes them again. A task owns a part of the channels and goes through all tokens in order, and the caller sums over parts
// in order: the same bits for any number of threads.

#include "common.h"

namespace {

constexpr int CHUNK = 32;  // tokens: eight rows of them, a vector each, fit the first-level cache; as in ops/selective_scan/native.py
constexpr int STEP = 4;    // tokens whose decays are computed together; 8 do not fit the registers
constexpr int PART = 128;  // channels of a task

typedef int32_t ints __attribute__((vector_size(WIDTH * sizeof(int32_t))));

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

// a_k = 2^(A dt_k) for exponents <= 0 to 2 ulp; below 2^-126 it is 0, and a NaN stays one. The exponent is n + r with |r| <= 1/2,
// and 2^r a polynomial. STEP tokens go in step with one another: each alone would wait for the end of its own polynomial.
inline void decays(vec A, const vec *dt, vec *a) {
    constexpr float coefficients[] = {1.33988750e-3f, 9.61843692e-3f, 5.55033237e-2f, 2.40226477e-1f, 6.93147182e-1f, 1.f};
    vec power[STEP], r[STEP], p[STEP];  // not in `a`, which the compiler would have to keep in memory
#pragma GCC unroll 4
    for (int k = 0; k < STEP; k++) {
        r[k] = A * dt[k];
        r[k] = -127.f > r[k] ? vec{} - 127.f : r[k];
    }
#pragma GCC unroll 4
    for (int k = 0; k < STEP; k++) {
        power[k] = r[k] + 12583039.f;  // 1.5 * 2^23 + 127: the lowest bits are now n + 127, the exponent of 2^n
        r[k] -= power[k] - 12583039.f;
        power[k] = (vec)((ints)power[k] << 23);
        p[k] = r[k] * 1.53533620e-4f;
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++)
#pragma GCC unroll 4
        for (int k = 0; k < STEP; k++) p[k] = (i ? p[k] * r[k] : p[k]) + coefficients[i];
#pragma GCC unroll 4
    for (int k = 0; k < STEP; k++) a[k] = p[k] * power[k];
}

// The tokens of a chunk, and where the state before them is kept.
struct Span {
    int64_t first, place;
    int tokens;

    int steps() const { return (tokens + STEP - 1) / STEP * STEP; }
};

// A vector for each token of a chunk.
struct Row {
    alignas(64) float of[CHUNK][WIDTH];
    vec &operator[](int k) { return *(vec *)of[k]; }
};

// WIDTH channels or, at the end, fewer; what lies behind them is 0 in every vector.
struct Strip {
    int64_t first;
    int width;

    template <class T> void read(const T *from, float *to) const {
        if (width == WIDTH)
            for (int i = 0; i < WIDTH; i++) to[i] = load(from[first + i]);
        else
            for (int i = 0; i < WIDTH; i++) to[i] = i < width ? load(from[first + i]) : 0.f;
    }
    vec get(const float *from) const {
        vec result;
        read(from, (float *)&result);
        return result;
    }
    template <class T> void write(const float *from, T *to) const {
        if (width == WIDTH)
            for (int i = 0; i < WIDTH; i++) store(to[first + i], from[i]);
        else
            for (int i = 0; i < width; i++) store(to[first + i], from[i]);
    }
    // While a chunk is at work the next one is fetched: a processor does not guess steps of whole rows.
    template <class T> void read_row(const T *from, int64_t stride, const Span &span, Row &to) const {
        for (int k = 0; k < span.tokens; k++) {
            __builtin_prefetch(from + (span.first + k + CHUNK) * stride + first, 0, 2);
            read(from + (span.first + k) * stride, to.of[k]);
        }
        for (int k = span.tokens; k < span.steps(); k++) to[k] = vec{};
    }
    template <class T> void write_row(Row &from, int64_t stride, const Span &span, T *to) const {
        for (int k = 0; k < span.tokens; k++) write(from.of[k], to + (span.first + k) * stride);
    }
    // Between [inner][state] of the caller and [state][WIDTH] of the strip.
    void read_states(const float *from, int64_t state, float *to) const {
        std::memset(to, 0, state * WIDTH * sizeof(float));
        for (int i = 0; from && i < width; i++)
            for (int64_t n = 0; n < state; n++) to[n * WIDTH + i] = from[(first + i) * state + n];
    }
    void write_states(const float *from, int64_t state, float *to) const {
        for (int i = 0; i < width; i++)
            for (int64_t n = 0; n < state; n++) to[(first + i) * state + n] = from[n * WIDTH + i];
    }
};

struct Shape {
    int64_t sequences, inner, state;
    const int64_t *bounds;

    int64_t parts() const { return (inner + PART - 1) / PART; }
    int64_t chunks(int64_t sequence) const { return (bounds[sequence + 1] - bounds[sequence] + CHUNK - 1) / CHUNK; }
    std::vector<Strip> strips(int64_t part) const {
        std::vector<Strip> result;
        for (int64_t first = part * PART; first < std::min(inner, (part + 1) * PART); first += WIDTH)
            result.push_back({first, (int)std::min<int64_t>(WIDTH, inner - first)});
        return result;
    }
    // T / CHUNK + sequences places are enough for all chunks.
    Span span(int64_t sequence, int64_t chunk) const {
        const int64_t start = bounds[sequence], first = start + chunk * CHUNK;
        return {first, start / CHUNK + sequence + chunk, (int)std::min<int64_t>(CHUNK, bounds[sequence + 1] - first)};
    }
};

template <class T> struct Inputs {
    Shape s;
    const T *x, *B, *C;
    int64_t x_stride, B_stride, C_stride;
    const float *dt, *A, *D, *initial;
};

// The channels that a task owns, and what it reads of the chunk at hand.
template <class T> struct Part {
    const Inputs<T> &in;
    const Shape &s;
    const int64_t number, state;
    std::vector<Strip> strips;
    Floats A, B, C;  // A [strips][state][WIDTH], to the base 2; B and C [state][CHUNK]
    Row dt, x, u;    // of one strip

    Part(const Inputs<T> &in, int64_t number)
        : in(in), s(in.s), number(number), state(s.state), strips(s.strips(number)), A(states()), B(state * CHUNK), C(state * CHUNK) {
        for (size_t i = 0; i < strips.size(); i++) strips[i].read_states(in.A, state, at(A, i));
        for (size_t i = 0; i < A.size; i++) A[i] *= LOG2_E;
    }

    size_t states() const { return strips.size() * state * WIDTH; }
    float *at(Floats &states, size_t strip, int64_t n = 0) const { return states.at((strip * state + n) * WIDTH); }
    vec &of(Floats &states, size_t strip, int64_t n) const { return *(vec *)at(states, strip, n); }

    // Behind the last token are zeros: of dt and u, so that steps there change no state, and of B and C, which may not be NaN.
    void read_shared(const Span &span) {
        for (int k = 0; k < span.steps(); k++)
            for (int64_t n = 0; n < state; n++) {
                B[n * CHUNK + k] = k < span.tokens ? load(in.B[(span.first + k) * in.B_stride + n]) : 0.f;
                C[n * CHUNK + k] = k < span.tokens ? load(in.C[(span.first + k) * in.C_stride + n]) : 0.f;
            }
    }
    void read_strip(const Strip &strip, const Span &span) {
        strip.read_row(in.dt, s.inner, span, dt);
        strip.read_row(in.x, in.x_stride, span, x);
        for (int k = 0; k < span.steps(); k++) u[k] = dt[k] * x[k];
    }
};

float step_channel(float dt, float u, const float *A, const float *B, const float *C, const float *before, float *after, int64_t state) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t n = 0; n < state; n++) {
        after[n] = exponential(dt * A[n]) * before[n] + u * B[n];
        sum += C[n] * after[n];
    }
    return sum;
}

// One token, the recurrence itself, in the layout of the caller: decoding is bound by reading the state.
template <class T> void step(const Inputs<T> &in, int64_t number, int64_t sequence, T *y, float *final) {
    const Shape &s = in.s;
    const int64_t t = s.bounds[sequence];
    Floats B(s.state), C(s.state), zeros(s.state), unwanted(s.state);
    for (int64_t n = 0; n < s.state; n++) {
        B[n] = load(in.B[t * in.B_stride + n]);
        C[n] = load(in.C[t * in.C_stride + n]);
    }
    for (int64_t channel = number * PART; channel < std::min(s.inner, (number + 1) * PART); channel++) {
        const int64_t place = (sequence * s.inner + channel) * s.state;
        const float *before = in.initial ? in.initial + place : zeros.data;
        float *after = final ? final + place : unwanted.data;
        const float dt = in.dt[t * s.inner + channel], x = load(in.x[t * in.x_stride + channel]);
        const float sum = step_channel(dt, dt * x, in.A + channel * s.state, B.data, C.data, before, after, s.state);
        store(y[t * s.inner + channel], sum + in.D[channel] * x);
    }
}

// One index of the state through a chunk: its part of y is added to `out`, and the state behind the chunk returned.
template <class T> vec advance(Part<T> &part, vec A, int64_t n, int steps, vec h, Row &out) {
    const float *B = part.B.at(n * CHUNK), *C = part.C.at(n * CHUNK);
    for (int first = 0; first < steps; first += STEP) {
        vec a[STEP];
        decays(A, &part.dt[first], a);
#pragma GCC unroll 4
        for (int k = 0; k < STEP; k++) {
            h = a[k] * h + B[first + k] * part.u[first + k];
            out[first + k] += C[first + k] * h;
        }
    }
    return h;
}

template <class T> void forward_part(const Inputs<T> &in, int64_t number, int64_t sequence, T *y, float *kept, float *final) {
    auto part = std::make_unique<Part<T>>(in, number);
    const int64_t inner = in.s.inner, state = in.s.state, size = inner * state;
    Floats H(part->states());
    Row out;
    const auto &strips = part->strips;
    for (size_t i = 0; i < strips.size() && in.initial; i++) strips[i].read_states(in.initial + sequence * size, state, part->at(H, i));
    for (int64_t chunk = 0; chunk < in.s.chunks(sequence); chunk++) {
        const Span span = in.s.span(sequence, chunk);
        part->read_shared(span);
        for (size_t i = 0; i < strips.size(); i++) {
            part->read_strip(strips[i], span);
            const vec D = strips[i].get(in.D);
            for (int k = 0; k < span.steps(); k++) out[k] = D * part->x[k];
            for (int64_t n = 0; n < state; n++) {
                vec &h = part->of(H, i, n);
                if (kept) strips[i].write((float *)&h, kept + span.place * size + n * inner);
                h = advance(*part, part->of(part->A, i, n), n, span.steps(), h, out);
            }
            strips[i].write_row(out, inner, span, y);
        }
    }
    for (size_t i = 0; i < strips.size() && final; i++) strips[i].write_states(part->at(H, i), state, final + sequence * size);
}

// Where the gradients go: dB and dC are [T][parts][state].
template <class T> struct Gradients {
    const T *dy;
    const float *kept, *final;
    T *dx;
    float *ddt, *dA, *dB, *dC, *dD, *initial;
};

// The backward pass of one part of the channels, through all sequences.
template <class T> struct Backward {
    const Inputs<T> &in;
    const Gradients<T> &grad;
    const Shape &s;
    Part<T> part;
    Floats g, dA, dD;  // [strips][state][WIDTH]; dD [strips][WIDTH]
    Floats dB, dC;     // of a chunk, [state][CHUNK][WIDTH]: not yet summed over the channels of a vector
    Row dy, du, ddt, a, before;

    Backward(const Inputs<T> &in, const Gradients<T> &grad, int64_t number)
        : in(in), grad(grad), s(in.s), part(in, number), g(part.states()), dA(part.states()), dD(part.strips.size() * WIDTH),
          dB(s.state * CHUNK * WIDTH), dC(s.state * CHUNK * WIDTH) {}

    void run() {
        const auto &strips = part.strips;
        for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
            const int64_t place = sequence * s.inner * s.state;
            g.zero();
            for (size_t i = 0; i < strips.size() && grad.final; i++) strips[i].read_states(grad.final + place, s.state, part.at(g, i));
            for (int64_t chunk = s.chunks(sequence) - 1; chunk >= 0; chunk--) backward_chunk(s.span(sequence, chunk));
            for (size_t i = 0; i < strips.size() && grad.initial; i++) strips[i].write_states(part.at(g, i), s.state, grad.initial + place);
        }
        for (size_t i = 0; i < strips.size(); i++) {
            strips[i].write_states(part.at(dA, i), s.state, grad.dA);
            strips[i].write(dD.at(i * WIDTH), grad.dD);
        }
    }

    void backward_chunk(const Span &span) {
        part.read_shared(span);
        dB.zero();
        dC.zero();
        for (size_t i = 0; i < part.strips.size(); i++) backward_strip(i, span);
        for (int64_t n = 0; n < s.state; n++)
            for (int k = 0; k < span.tokens; k++) {
                const int64_t to = ((span.first + k) * s.parts() + part.number) * s.state + n;
                grad.dB[to] = sum(dB.at((n * CHUNK + k) * WIDTH));
                grad.dC[to] = sum(dC.at((n * CHUNK + k) * WIDTH));
            }
    }

    static float sum(const float *lanes) {
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int i = 0; i < WIDTH; i++) total += lanes[i];
        return total;
    }

    void backward_strip(size_t i, const Span &span) {
        const Strip &strip = part.strips[i];
        part.read_strip(strip, span);
        strip.read_row(grad.dy, s.inner, span, dy);
        for (int k = 0; k < span.tokens; k++) du[k] = ddt[k] = vec{};
        for (int64_t n = 0; n < s.state; n++) {
            const vec A = part.of(part.A, i, n), start = strip.get(grad.kept + (span.place * s.state + n) * s.inner);
            const vec last = again(A, n, span.steps(), start);
            reverse(A, n, span.tokens, last, part.of(g, i, n), part.of(dA, i, n));
        }
        const vec D = strip.get(in.D);
        vec by_skip = {};
        for (int k = 0; k < span.tokens; k++) {
            by_skip += dy[k] * part.x[k];
            ddt[k] = part.x[k] * du[k] + LN_2 * ddt[k];
            du[k] = part.dt[k] * du[k] + D * dy[k];
        }
        *(vec *)dD.at(i * WIDTH) += by_skip;
        strip.write_row(ddt, s.inner, span, grad.ddt);
        strip.write_row(du, s.inner, span, grad.dx);
    }

    // The forward pass of one index of the state: its decays, and the states before each token.
    vec again(vec A, int64_t n, int steps, vec h) {
        const float *B = part.B.at(n * CHUNK);
        for (int first = 0; first < steps; first += STEP) {
            decays(A, &part.dt[first], &a[first]);
#pragma GCC unroll 4
            for (int k = first; k < first + STEP; k++) {
                before[k] = h;
                h = a[k] * h + B[k] * part.u[k];
            }
        }
        return h;
    }

    // `after` is the state behind the last token, `carried` the gradient by it; on return, the gradient by the state before the chunk.
    void reverse(vec A, int64_t n, int tokens, vec after, vec &carried, vec &by_A) {
        const float *B = part.B.at(n * CHUNK), *C = part.C.at(n * CHUNK);
        vec *by_B = (vec *)dB.at(n * CHUNK * WIDTH), *by_C = (vec *)dC.at(n * CHUNK * WIDTH);
        vec g = carried, sum = {};  // of the chunk: short sums lose less
        for (int k = tokens - 1; k >= 0; k--) {
            g += C[k] * dy[k];
            by_C[k] += dy[k] * after;
            by_B[k] += part.u[k] * g;
            du[k] += B[k] * g;
            g *= a[k];
            after = before[k];
            const vec passing = g * after;
            sum += part.dt[k] * passing;
            ddt[k] += A * passing;
        }
        carried = g;
        by_A += sum;
    }
};

template <class T> void forward(const Inputs<T> &in, T *y, float *kept, float *final, bool exact, int threads) {
    const Shape &s = in.s;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(threads)
    for (int64_t number = 0; number < s.parts(); number++)
        for (int64_t sequence = 0; sequence < s.sequences; sequence++)
            if (s.bounds[sequence + 1] - s.bounds[sequence] == 1 && !kept && !exact)
                step(in, number, sequence, y, final);
            else
                forward_part(in, number, sequence, y, kept, final);
}

template <class T> void backward(const Inputs<T> &in, const Gradients<T> &grad, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t number = 0; number < in.s.parts(); number++) std::make_unique<Backward<T>>(in, grad, number)->run();
}

template <class T>
Inputs<T> inputs(const int64_t *sizes, const int64_t *bounds, const int64_t *strides, const void *x, const float *dt, const float *A,
                 const void *B, const void *C, const float *D, const float *initial) {
    const Shape s{sizes[0], sizes[1], sizes[2], bounds};
    return {s, (const T *)x, (const T *)B, (const T *)C, strides[0], strides[1], strides[2], dt, A, D, initial};
}

}  // namespace

// sizes: sequences, inner, state. strides: of x, B, C from token to token. initial, kept and final may be null; kept is
// [T / CHUNK + sequences][state][inner].
EXPORT void scan_forward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, const int64_t *strides, const void *x, const float *dt,
                         const float *A, const void *B, const void *C, const float *D, const float *initial, void *y, float *kept,
                         float *final, int64_t exact, int64_t threads) {
    if (is_bf16)
        forward(inputs<bf16>(sizes, bounds, strides, x, dt, A, B, C, D, initial), (bf16 *)y, kept, final, exact != 0, threads);
    else
        forward(inputs<float>(sizes, bounds, strides, x, dt, A, B, C, D, initial), (float *)y, kept, final, exact != 0, threads);
}

// How many partial sums over channels dB and dC have per token.
EXPORT int scan_parts(const int64_t *sizes) { return Shape{sizes[0], sizes[1], sizes[2], nullptr}.parts(); }

// dy and dx are [T][inner]; dB and dC [T][parts][state].
EXPORT void scan_backward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, const int64_t *strides, const void *x, const float *dt,
                          const float *A, const void *B, const void *C, const float *D, const float *initial, const float *kept,
                          const void *dy, const float *dfinal, void *dx, float *ddt, float *dA, float *dB, float *dC, float *dD,
                          float *dinitial, int64_t threads) {
    if (is_bf16)
        backward<bf16>(inputs<bf16>(sizes, bounds, strides, x, dt, A, B, C, D, initial),
                       {(const bf16 *)dy, kept, dfinal, (bf16 *)dx, ddt, dA, dB, dC, dD, dinitial}, threads);
    else
        backward<float>(inputs<float>(sizes, bounds, strides, x, dt, A, B, C, D, initial),
                        {(const float *)dy, kept, dfinal, (float *)dx, ddt, dA, dB, dC, dD, dinitial}, threads);
}
