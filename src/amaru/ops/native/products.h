// Dot products of rows of weights with rows of x, a block of them at a time, for linear.cpp and its quantised kin.
//
// Lane i of a sum takes every STEP-th product, and the lanes are added up at the end: the order depends on the width of the rows
// and on nothing else, so a result has the same bits whatever stands beside it.
#pragma once

#include "common.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// Blocks of weight rows by rows of x whose sums, x and one weight fill the registers. A few tokens alone take the rows one by one: a
// processor fetches one stream ahead by itself better than several that are told to it.
constexpr int ROWS = 4;  // at most
#if defined(__AVX512F__)
constexpr int ALONE = 3, PAIRED = 8, MANY = 6;  // tokens in a block of one row, of two, of four
#else
constexpr int ALONE = 3, PAIRED = 4, MANY = 2;
#endif
constexpr int64_t AHEAD = 8192;  // bytes: how far ahead of a block at work few tokens fetch the weight; one row at a time a quarter of it

typedef uint32_t words __attribute__((vector_size(WIDTH * sizeof(uint32_t))));

template <class V> inline V unaligned(const void *from) {
    V result;
    std::memcpy(&result, from, sizeof result);
    return result;
}

template <class T> struct Lanes;

template <> struct Lanes<float> {
    static constexpr int STEP = WIDTH;
    typedef vec held;
    static void add(vec &sum, held a, held b) { sum += a * b; }
};

// Two bfloat16 to a lane, in one 32-bit word.
template <> struct Lanes<bf16> {
    static constexpr int STEP = 2 * WIDTH;
    typedef words held;
    static void add(vec &sum, held a, held b) {
#if defined(__AVX512BF16__)
        sum = (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
        sum += (vec)(a << 16) * (vec)(b << 16);
        sum += (vec)(a & 0xffff0000u) * (vec)(b & 0xffff0000u);
#endif
    }
};

// The lanes of R vectors added up, in the same order for every R.
template <int R> inline void totals(const vec *v, float *to) {
#if defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1 % R], c = (__m512)v[2 % R], d = (__m512)v[3 % R];
    const __m512 ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b), cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
    const __m512d low = _mm512_unpacklo_pd((__m512d)ab, (__m512d)cd), high = _mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
    const __m512 lanes = (__m512)low + (__m512)high;
    const __m256 half = _mm512_castps512_ps256(lanes) + (__m256)_mm512_extractf64x4_pd((__m512d)lanes, 1);
    const __m128 sums = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
    std::memcpy(to, &sums, R * sizeof(float));
#else
    for (int r = 0; r < R; r++) {
        to[r] = 0;
        for (int i = 0; i < WIDTH; i++) to[r] += v[r][i];
    }
#endif
}

// Rows as they lie in memory, and how many whole steps are in them; what is left over is copied beside zeros.
template <class T> struct Matrix {
    const T *data;
    int64_t stride;

    const T *row(int64_t r) const { return data + r * stride; }
};

// sums[n][r] = row r of w · row n of x, the rows of w one behind the other. Meanwhile as many bytes as FETCHED such rows have are
// fetched from `next` on into the second-level cache, unless it is null.
template <int R, int N, int FETCHED, class T>
void multiply_block(const Matrix<T> &w, const Matrix<T> &x, int64_t cols, const T *next, float (*sums)[ROWS]) {
    using L = Lanes<T>;
    using held = typename L::held;
    vec sum[N][R] = {};
    int64_t i = 0;
    for (; i + L::STEP <= cols; i += L::STEP) {
        held a[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) a[n] = unaligned<held>(x.row(n) + i);
        if (next)
#pragma GCC unroll 4
            for (int f = 0; f < FETCHED; f++) __builtin_prefetch(next + FETCHED * i + f * L::STEP, 0, 2);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const held b = unaligned<held>(w.row(r) + i);
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) L::add(sum[n][r], a[n], b);
        }
    }
    if (i < cols) {
        alignas(64) T rest[R + N][L::STEP] = {};
        for (int r = 0; r < R; r++) std::memcpy(rest[r], w.row(r) + i, (cols - i) * sizeof(T));
        for (int n = 0; n < N; n++) std::memcpy(rest[R + n], x.row(n) + i, (cols - i) * sizeof(T));
#pragma GCC unroll 8
        for (int n = 0; n < N; n++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) L::add(sum[n][r], unaligned<held>(rest[R + n]), unaligned<held>(rest[r]));
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) totals<R>(sum[n], sums[n]);
}

// The same for a number of tokens that is known at last: at most `MOST`.
template <int R, int MOST, int FETCHED = R, class T>
void multiply(const Matrix<T> &w, const Matrix<T> &x, int tokens, int64_t cols, const T *next, float (*sums)[ROWS]) {
    if (tokens == MOST || MOST == 1)
        multiply_block<R, MOST, FETCHED>(w, x, cols, next, sums);
    else
        multiply<R, std::max(1, MOST - 1), FETCHED>(w, x, tokens, cols, next, sums);
}
