// A few tokens of a causal convolution and SiLU for each of many sequences, whose states are read and written where they lie.

#include "common.h"
#include "program.h"
#include "steps.h"
#include "team.h"

namespace {

constexpr int64_t PART = 256;  // rows of a task

// T of activations and the state.
template <class T> struct Inputs {
    int64_t rows, taps, stride;  // stride of x from token to token
    const int64_t *bounds;       // [sequences + 1], of tokens
    const T *x;
    T *conv;  // [slots][rows][taps - 1]
    const int64_t *slots;
    const bool *fresh;
    Reals weight, bias;
    T *out;  // [tokens][rows]
};

template <class T> void step(const Inputs<T> &in, int64_t sequence, int64_t first) {
    const int64_t count = std::min(PART, in.rows - first), lag = in.taps - 1;
    Floats weight(count * in.taps), bias(count), to(count);
    in.weight.read(first * in.taps, count * in.taps, weight.data);
    in.bias.read(first, count, bias.data);
    T *state = in.conv + (in.slots[sequence] * in.rows + first) * lag;
    for (int64_t token = in.bounds[sequence]; token < in.bounds[sequence + 1]; token++) {
        const bool fresh = in.fresh[sequence] && token == in.bounds[sequence];
        const T *x = in.x + token * in.stride + first;
        (in.taps == 4 ? convolve<4, T> : convolve<0, T>)(in.taps, x, state, fresh, weight.data, bias.data, to.data, count);
        T *out = in.out + token * in.rows + first;
        for (int64_t i = 0; i < count; i++) store(out[i], to[i]);
    }
}

}  // namespace

// sizes: sequences, rows, taps, stride of x, slots of the pool; bounds [sequences + 1] of their tokens. No two sequences share a slot.
// Returns -1, or the first sequence whose slot the pool does not have: then nothing was done.
EXPORT int64_t conv_step(int64_t is_bf16, int64_t weight_is_bf16, const int64_t *sizes, const int64_t *bounds, const void *x, void *conv,
                         const int64_t *slots, const bool *fresh, const void *weight, const void *bias, void *out, int64_t threads) {
    const int64_t sequences = sizes[0], parts = (sizes[1] + PART - 1) / PART;
    for (int64_t i = 0; i < sequences; i++)
        if (slots[i] < 0 || slots[i] >= sizes[4]) return i;
    auto run = [&](auto activation) {
        using T = decltype(activation);
        const Inputs<T> in{sizes[1], sizes[2], sizes[3], bounds, (const T *)x, (T *)conv, slots, fresh, {weight, weight_is_bf16 != 0},
                           {bias, weight_is_bf16 != 0}, (T *)out};
        share(sequences * parts, threads, [&](int64_t task) { step(in, task / parts, task % parts * PART); });
    };
    is_bf16 ? run(bf16()) : run(float());
    return -1;
}

PROGRAMMABLE(conv_step)
