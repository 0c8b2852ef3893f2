// A few tokens of Mamba-2 for each of many sequences, from the projection to the gated norm: convolution and SiLU, softplus of dt, the
// state's update and its product with C in one pass over it, D, gate, norm per group. States are read and written where they lie.
//
// Tokens of a sequence go a block at a time through each row of the state, which stays near while they do. Every token has the arithmetic
// of its own step: no bit depends on how many come together.

#include "common.h"

namespace {

constexpr int MOST_STATE = 256, MOST_TAPS = 8;
constexpr int BLOCK = 16;  // tokens

struct Shape {
    int64_t sequences, heads, channels, groups, state, taps, stride;  // stride of the projection from token to token
    const int64_t *bounds;                                            // [sequences + 1], of tokens
    float eps, least, most;                                           // of the norm; limits of dt

    int64_t inner() const { return heads * channels; }
    int64_t conv_rows() const { return inner() + 2 * groups * state; }
    int64_t shared() const { return heads / groups; }
    int64_t width() const { return shared() * channels; }  // of a group
};

// Parameters as they are stored, float or bfloat16.
struct Reals {
    const void *data;
    bool is_bf16;

    void read(int64_t first, int64_t count, float *to) const {
        for (int64_t i = 0; i < count; i++) to[i] = is_bf16 ? load(((const bf16 *)data)[first + i]) : ((const float *)data)[first + i];
    }
};

// T of activations and the convolution's state, S of the state.
template <class T, class S> struct Inputs {
    Shape s;
    const T *projected;  // [tokens][stride]: z | x | B | C | dt
    T *conv;             // [slots][conv_rows][taps - 1]
    S *ssm;              // [slots][heads][channels][state]
    const int64_t *slots;
    const bool *fresh;
    Reals conv_weight, conv_bias, norm_weight;
    const float *dt_bias, *A_log, *D;
    T *out;  // [tokens][inner]
};

inline float softplus(float x) { return x > 20.f ? x : std::log1p(std::exp(x)); }

// `count` rows of the convolution from `first` on, and their state moved on by one token.
template <int TAPS, class T>
void convolve(int64_t taps, const T *x, T *state, bool fresh, const float *weight, const float *bias, float *to, int64_t count) {
    const int lag = (TAPS ? TAPS : taps) - 1;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; i++) {
        const float newest = load(x[i]);
        float sum = bias[i] + weight[i * (lag + 1) + lag] * newest;
        T *held = state + i * lag;
        for (int k = 0; k < lag; k++) sum += weight[i * (lag + 1) + k] * (fresh ? 0.f : load(held[k]));
        for (int k = 0; k + 1 < lag; k++) held[k] = fresh ? T(0) : held[k + 1];
        if (lag) held[lag - 1] = x[i];
        to[i] = sum * sigmoid(sum);
    }
}

// h = decay h + u B, and the sum of C h: one row of the state.
template <class S> inline float advance(S *h, bool fresh, float decay, float u, const float *B, const float *C, int64_t state) {
    float sum = 0;
    if (fresh) {
#pragma omp simd reduction(+ : sum)
        for (int64_t n = 0; n < state; n++) {
            const float next = u * B[n];
            sum += C[n] * next;
            store(h[n], next);
        }
        return sum;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t n = 0; n < state; n++) {
        const float next = decay * load(h[n]) + u * B[n];
        sum += C[n] * next;
        store(h[n], next);
    }
    return sum;
}

// A block of tokens of one sequence; `fresh`: the first of them starts from zero.
struct Span {
    int64_t sequence, first;
    int tokens;
    bool fresh;
};

// Of one group and one block: x, B and C after the convolution, outputs before the norm, and parameters as float.
struct Room {
    const int64_t width, state;
    Floats x, y, B, C, weight, bias;

    Room(const Shape &s, int64_t tokens)
        : width(s.width()), state(s.state), x(tokens * width), y(tokens * width), B(tokens * state), C(tokens * state),
          weight(std::max(width, state) * s.taps), bias(std::max(width, state)) {}
};

template <class T, class S> void convolve_group(const Inputs<T, S> &in, const Span &span, int64_t group, Room &room) {
    const Shape &s = in.s;
    const T *row = in.projected + span.first * s.stride + s.inner();
    T *state = in.conv + in.slots[span.sequence] * s.conv_rows() * (s.taps - 1);
    auto run = [&](int64_t first, int64_t count, float *to) {
        in.conv_weight.read(first * s.taps, count * s.taps, room.weight.data);
        in.conv_bias.read(first, count, room.bias.data);
        for (int k = 0; k < span.tokens; k++)
            (s.taps == 4 ? convolve<4, T> : convolve<0, T>)(s.taps, row + k * s.stride + first, state + first * (s.taps - 1),
                                                            span.fresh && k == 0, room.weight.data, room.bias.data, to + k * count, count);
    };
    run(group * s.width(), s.width(), room.x.data);
    run(s.inner() + group * s.state, s.state, room.B.data);
    run(s.inner() + (s.groups + group) * s.state, s.state, room.C.data);
}

// One head of the group, whose columns of room.x and room.y begin at `column`.
template <class T, class S> void advance_head(const Inputs<T, S> &in, const Span &span, int64_t head, int64_t column, Room &room) {
    const Shape &s = in.s;
    float dt[BLOCK], decay[BLOCK];
    for (int k = 0; k < span.tokens; k++) {
        const T *row = in.projected + (span.first + k) * s.stride + s.inner() + s.conv_rows();
        dt[k] = std::min(std::max(softplus(load(row[head]) + in.dt_bias[head]), s.least), s.most);
        decay[k] = std::exp(-dt[k] * std::exp(in.A_log[head]));
    }
    S *h = in.ssm + (in.slots[span.sequence] * s.heads + head) * s.channels * s.state;
    for (int64_t p = 0; p < s.channels; p++)
        for (int k = 0; k < span.tokens; k++) {
            const float x = room.x[k * room.width + column + p];
            const float sum = advance(h + p * s.state, span.fresh && k == 0, decay[k], dt[k] * x, room.B.at(k * s.state),
                                      room.C.at(k * s.state), s.state);
            room.y[k * room.width + column + p] = sum + in.D[head] * x;
        }
}

template <class T, class S> void norm_group(const Inputs<T, S> &in, int64_t token, int64_t group, float *y, const float *weight) {
    const Shape &s = in.s;
    const int64_t first = group * s.width();
    const T *z = in.projected + token * s.stride + first;
    T *out = in.out + token * s.inner() + first;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < s.width(); i++) {
        const float gate = load(z[i]);
        y[i] *= gate * sigmoid(gate);
        sum += y[i] * y[i];
    }
    const float scale = 1.f / std::sqrt(sum / s.width() + s.eps);
#pragma omp simd
    for (int64_t i = 0; i < s.width(); i++) store(out[i], y[i] * scale * weight[i]);
}

template <class T, class S> void step_group(const Inputs<T, S> &in, int64_t sequence, int64_t group) {
    const Shape &s = in.s;
    const int64_t start = s.bounds[sequence], stop = s.bounds[sequence + 1];
    Room room(s, std::min<int64_t>(BLOCK, stop - start));
    for (int64_t first = start; first < stop; first += BLOCK) {
        const Span span{sequence, first, (int)std::min<int64_t>(BLOCK, stop - first), in.fresh[sequence] && first == start};
        convolve_group(in, span, group, room);
        for (int64_t i = 0; i < s.shared(); i++) advance_head(in, span, group * s.shared() + i, i * s.channels, room);
        in.norm_weight.read(group * s.width(), s.width(), room.weight.data);
        for (int k = 0; k < span.tokens; k++) norm_group(in, first + k, group, room.y.at(k * s.width()), room.weight.data);
    }
}

template <class T, class S> void step(const Inputs<T, S> &in, int threads) {
    const Shape &s = in.s;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(threads)
    for (int64_t sequence = 0; sequence < s.sequences; sequence++)
        for (int64_t group = 0; group < s.groups; group++) step_group(in, sequence, group);
}

}  // namespace

// sizes: sequences, heads, channels, groups, state, taps, stride of the projection, slots of the pool; bounds [sequences + 1] of their
// tokens. Activations, the convolution's state and `out` are of one type, the state of another; no two sequences share a slot.
// Returns -1, or the first sequence whose slot the pool does not have: then nothing was done.
EXPORT int64_t mamba2_step(int64_t is_bf16, int64_t ssm_is_bf16, int64_t conv_is_bf16, int64_t norm_is_bf16, const int64_t *sizes, const int64_t *bounds, float eps,
                        float least, float most, const void *projected, void *conv, void *ssm, const int64_t *slots, const bool *fresh,
                        const void *conv_weight, const void *conv_bias, const float *dt_bias, const float *A_log, const float *D,
                        const void *norm_weight, void *out, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], bounds, eps, least, most};
    for (int64_t i = 0; i < s.sequences; i++)
        if (slots[i] < 0 || slots[i] >= sizes[7]) return i;
    auto run = [&](auto activation, auto held) {
        using T = decltype(activation);
        using S = decltype(held);
        step<T, S>({s, (const T *)projected, (T *)conv, (S *)ssm, slots, fresh, {conv_weight, conv_is_bf16 != 0}, {conv_bias, conv_is_bf16 != 0},
                    {norm_weight, norm_is_bf16 != 0}, dt_bias, A_log, D, (T *)out}, threads);
    };
    if (is_bf16)
        ssm_is_bf16 ? run(bf16(), bf16()) : run(bf16(), float());
    else
        ssm_is_bf16 ? run(float(), bf16()) : run(float(), float());
    return -1;
}
