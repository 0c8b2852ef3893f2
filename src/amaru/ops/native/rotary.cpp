// Pairs of channels turn by the angles of their token. Products are rounded before they are added, as torch does it.

#include "common.h"
#include "program.h"

namespace {

template <class T>
__attribute__((optimize("fp-contract=off"))) void turn(const int64_t *sizes, const T *x, const float *cos, const float *sin, T *to) {
    const int64_t tokens = sizes[0], heads = sizes[1], channels = sizes[2], half = sizes[3], stride = sizes[4], apart = sizes[5];
    for (int64_t t = 0; t < tokens; t++, cos += half, sin += half)
        for (int64_t head = 0; head < heads; head++, to += channels) {
            const T *from = x + t * stride + head * apart;
            for (int64_t i = 0; i < half; i++) {
                const float first = load(from[i]), second = load(from[half + i]);
                store(to[i], first * cos[i] - second * sin[i]);
                store(to[half + i], second * cos[i] + first * sin[i]);
            }
            std::copy(from + 2 * half, from + channels, to + 2 * half);
        }
}

}  // namespace

// sizes: tokens, heads, channels, pairs, and how far tokens and heads of x lie apart; cos and sin [tokens][pairs].
EXPORT void rotary(int64_t is_bf16, const int64_t *sizes, const void *x, const float *cos, const float *sin, void *to) {
    if (is_bf16)
        turn(sizes, (const bf16 *)x, cos, sin, (bf16 *)to);
    else
        turn(sizes, (const float *)x, cos, sin, (float *)to);
}

PROGRAMMABLE(rotary)
