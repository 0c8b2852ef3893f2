// A few tokens of Mamba-2 for each of many sequences, from the projection to the gated norm: convolution and SiLU, softplus of dt, the
// state's update and its product with C in one pass over it, D, gate, norm per group. States are read and written where they lie.
//
// Tokens of a sequence go a block at a time through each row of the state, which stays near while they do. Every token has the arithmetic
// of its own step: no bit depends on how many come together.

#include <deque>

#include "products.h"
#include "program.h"
#include "steps.h"
#include "team.h"

namespace {

constexpr int MOST_STATE = 256;
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

typedef uint16_t halves __attribute__((vector_size(WIDTH * sizeof(uint16_t))));

inline vec load_lanes(const float *from) { return unaligned<vec>(from); }
inline vec load_lanes(const bf16 *from) { return (vec)(__builtin_convertvector(unaligned<halves>(from), words) << 16); }

inline void store_lanes(float *to, vec v) { std::memcpy(to, &v, sizeof v); }

inline void store_lanes(bf16 *to, vec v) {
    const words bits = (words)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const halves result = __builtin_convertvector((words)(v != v) ? (words)(v - v + 0x7fc0) : rounded, halves);
    std::memcpy(to, &result, sizeof result);
}

constexpr int64_t FETCHED = 4096;  // bytes ahead of the row at work

// h = decay h + u B, and the sums of C h: R rows of the state. Lane i of a sum takes every WIDTH-th product.
template <int R, class S>
inline void advance(S *h, bool fresh, float decay, const float *u, const float *B, const float *C, int64_t state, float *sums) {
    vec sum[R] = {};
    int64_t n = 0;
    for (; n + WIDTH <= state; n += WIDTH) {
        const vec b = load_lanes(B + n), c = load_lanes(C + n);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            S *row = h + r * state + n;
            __builtin_prefetch((const char *)row + FETCHED, 1, 2);
            const vec next = fresh ? u[r] * b : decay * load_lanes(row) + u[r] * b;
            sum[r] += c * next;
            store_lanes(row, next);
        }
    }
    totals<R>(sum, sums);
    for (; n < state; n++)
        for (int r = 0; r < R; r++) {
            S &held = h[r * state + n];
            const float next = (fresh ? 0.f : decay * load(held)) + u[r] * B[n];
            sums[r] += C[n] * next;
            store(held, next);
        }
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
    auto rows = [&](auto count, int64_t p) {
        constexpr int R = decltype(count)::value;
        for (int k = 0; k < span.tokens; k++) {
            const float *x = room.x.at(k * room.width + column + p);
            float *y = room.y.at(k * room.width + column + p), u[R];
            for (int r = 0; r < R; r++) u[r] = dt[k] * x[r];
            advance<R>(h + p * s.state, span.fresh && k == 0, decay[k], u, room.B.at(k * s.state), room.C.at(k * s.state), s.state, y);
            for (int r = 0; r < R; r++) y[r] += in.D[head] * x[r];
        }
    };
    int64_t p = 0;
    for (; p + ROWS <= s.channels; p += ROWS) rows(std::integral_constant<int, ROWS>(), p);
    for (; p < s.channels; p++) rows(std::integral_constant<int, 1>(), p);
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

template <class T, class S> void norm_span(const Inputs<T, S> &in, const Span &span, int64_t group, Room &room) {
    in.norm_weight.read(group * room.width, room.width, room.weight.data);
    for (int k = 0; k < span.tokens; k++) norm_group(in, span.first + k, group, room.y.at(k * room.width), room.weight.data);
}

// body(span) for the blocks of one sequence, in order.
template <class T, class S, class Body> void spans(const Inputs<T, S> &in, int64_t sequence, const Body &body) {
    const int64_t start = in.s.bounds[sequence], stop = in.s.bounds[sequence + 1];
    for (int64_t first = start; first < stop; first += BLOCK)
        body(Span{sequence, first, (int)std::min<int64_t>(BLOCK, stop - first), in.fresh[sequence] && first == start});
}

template <class T, class S> void step_group(const Inputs<T, S> &in, int64_t sequence, int64_t group) {
    const Shape &s = in.s;
    Room room(s, std::min<int64_t>(BLOCK, s.bounds[sequence + 1] - s.bounds[sequence]));
    spans(in, sequence, [&](const Span &span) {
        convolve_group(in, span, group, room);
        for (int64_t i = 0; i < s.shared(); i++) advance_head(in, span, group * s.shared() + i, i * s.channels, room);
        norm_span(in, span, group, room);
    });
}

// Where there are fewer groups than threads: the heads of a group are shared out as well.
template <class T, class S> void step_heads(const Inputs<T, S> &in, int64_t sequence, int threads) {
    const Shape &s = in.s;
    std::deque<Room> rooms;
    for (int64_t group = 0; group < s.groups; group++) rooms.emplace_back(s, BLOCK);
    spans(in, sequence, [&](const Span &span) {
        share(s.groups, threads, [&](int64_t group) { convolve_group(in, span, group, rooms[group]); });
        share(s.heads, threads, [&](int64_t head) {
            advance_head(in, span, head, head % s.shared() * s.channels, rooms[head / s.shared()]);
        });
        share(s.groups, threads, [&](int64_t group) { norm_span(in, span, group, rooms[group]); });
    });
}

template <class T, class S> void step(const Inputs<T, S> &in, int threads) {
    const Shape &s = in.s;
    if (s.sequences * s.groups >= threads)
        share(s.sequences * s.groups, threads, [&](int64_t task) { step_group(in, task / s.groups, task % s.groups); });
    else
        for (int64_t sequence = 0; sequence < s.sequences; sequence++) step_heads(in, sequence, threads);
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

PROGRAMMABLE(mamba2_step)
