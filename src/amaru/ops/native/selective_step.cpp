// A few tokens of Mamba-1 for each of many sequences: softplus of dt, the state's update and its product with C in one pass over it, D and
// the gate. States are read and written where they lie; every token has the arithmetic of its own step.

#include "common.h"
#include "program.h"
#include "steps.h"
#include "team.h"

namespace {

constexpr int MOST_STATE = 256;
constexpr int64_t PART = 128;  // channels of a task

struct Shape {
    int64_t sequences, inner, state;
    int64_t x, dt, B, C, gate;  // strides from token to token
    const int64_t *bounds;      // [sequences + 1], of tokens
};

// T of activations, S of the state.
template <class T, class S> struct Inputs {
    Shape s;
    const T *x, *dt, *B, *C, *gate;
    S *ssm;  // [slots][inner][state]
    const int64_t *slots;
    const bool *fresh;
    const float *dt_bias, *A_log, *D;
    T *out;  // [tokens][inner]
};

// h = exp(dt A) h + u B and the sum of C h, for one channel.
template <class S>
inline float advance(S *h, float dt, float u, const float *A_log, const float *B, const float *C, int64_t state) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t n = 0; n < state; n++) {
        const float next = exponential(-dt * exponential(A_log[n])) * load(h[n]) + u * B[n];
        sum += C[n] * next;
        store(h[n], next);
    }
    return sum;
}

template <class T, class S> void step(const Inputs<T, S> &in, int64_t sequence, int64_t first) {
    const Shape &s = in.s;
    const int64_t last = std::min(first + PART, s.inner);
    S *held = in.ssm + in.slots[sequence] * s.inner * s.state;
    float B[MOST_STATE], C[MOST_STATE];
    for (int64_t token = s.bounds[sequence]; token < s.bounds[sequence + 1]; token++) {
        if (in.fresh[sequence] && token == s.bounds[sequence]) std::fill_n(held + first * s.state, (last - first) * s.state, S(0));
        for (int64_t n = 0; n < s.state; n++) {
            B[n] = load(in.B[token * s.B + n]);
            C[n] = load(in.C[token * s.C + n]);
        }
        for (int64_t i = first; i < last; i++) {
            const float dt = softplus(load(in.dt[token * s.dt + i]) + in.dt_bias[i]), x = load(in.x[token * s.x + i]);
            const float y = advance(held + i * s.state, dt, dt * x, in.A_log + i * s.state, B, C, s.state) + in.D[i] * x;
            const float gate = load(in.gate[token * s.gate + i]);
            store(in.out[token * s.inner + i], y * gate * sigmoid(gate));
        }
    }
}

}  // namespace

// sizes: sequences, inner, state, strides of x, dt, B, C and the gate, slots of the pool; bounds [sequences + 1] of their tokens. No two
// sequences share a slot. Returns -1, or the first sequence whose slot the pool does not have: then nothing was done.
EXPORT int64_t selective_step(int64_t is_bf16, int64_t ssm_is_bf16, const int64_t *sizes, const int64_t *bounds, const void *x, const void *dt,
                              const void *B, const void *C, const void *gate, void *ssm, const int64_t *slots, const bool *fresh,
                              const float *dt_bias, const float *A_log, const float *D, void *out, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], bounds};
    for (int64_t i = 0; i < s.sequences; i++)
        if (slots[i] < 0 || slots[i] >= sizes[8]) return i;
    const int64_t parts = (s.inner + PART - 1) / PART;
    auto run = [&](auto activation, auto held) {
        using T = decltype(activation);
        using S = decltype(held);
        const Inputs<T, S> in{s,     (const T *)x, (const T *)dt, (const T *)B, (const T *)C, (const T *)gate, (S *)ssm, slots,
                              fresh, dt_bias,      A_log,         D,            (T *)out};
        share(s.sequences * parts, threads, [&](int64_t task) { step(in, task / parts, task % parts * PART); });
    };
    if (is_bf16)
        ssm_is_bf16 ? run(bf16(), bf16()) : run(bf16(), float());
    else
        ssm_is_bf16 ? run(float(), bf16()) : run(float(), float());
    return -1;
}

PROGRAMMABLE(selective_step)
