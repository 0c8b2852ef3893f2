// Weights in fewer bits as they lie in memory: 8-bit integers, 4-bit integers in groups, and 8-bit floating point (E4M3).
#pragma once

#include "products.h"

constexpr int LANES = 16, LANE = 32;    // of 4 bits: in a block lane l holds the columns 32 l to 32 l + 31, and as many share a scale at least
constexpr int BLOCK = LANE * LANES;     // lane l of step s holds columns 4 s to 4 s + 3 of its 32
constexpr int STEP = 64;                // codes of an instruction

enum Kind : int64_t { INT4 = 4, INT8 = 8, FP8 = 43 };  // FP8: 4 bits of exponent, 3 of mantissa

// What follows on the codes at work is asked for from memory: one row at a time from nearby and into the first-level cache, where one
// token is all that it meets; several rows from further on and into the second.
template <int ROWS_AT_WORK> inline void fetch_behind(const void *codes) {
    if constexpr (ROWS_AT_WORK == 1)
        __builtin_prefetch((const char *)codes + 2048, 0, 3);
    else
        __builtin_prefetch((const char *)codes + 4096, 0, 2);
}

// The rows of x.
struct Tokens {
    int64_t count, cols, stride;
    const bf16 *x;

    const bf16 *row(int64_t token) const { return x + token * stride; }
};

inline int64_t blocked(int64_t cols) { return (cols + BLOCK - 1) / BLOCK * BLOCK; }

// Bias 7, no infinities; all ones is NaN. Subnormal numbers are exact as well.
inline float decoded(uint8_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const float size = exponent == 15 && mantissa == 7 ? NAN : exponent ? std::ldexp(8.f + mantissa, exponent - 10) : std::ldexp(float(mantissa), -9);
    return code & 128 ? -size : size;
}

// The numbers of a kind of codes of 8 bits, by code.
struct Numbers {
    float of[256];

    explicit Numbers(Kind kind) {
        for (int code = 0; code < 256; code++) of[code] = kind == INT8 ? float(int8_t(code)) : decoded(code);
    }
};
