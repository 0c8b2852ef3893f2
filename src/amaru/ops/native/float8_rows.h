// Rows of 8-bit floating-point codes times tokens: codes become bfloat16, which holds each of them exactly, in registers.
//
// The seven bits below the sign choose a byte of two tables of 128, the upper and the lower half of the number.
#pragma once

#include "codes.h"

#if defined(__AVX512VBMI__) && defined(__AVX512BF16__)

namespace {

// The tokens in the order in which sixty-four codes become numbers: first the even eights, then the odd ones, then zeros to the end.
struct Eights {
    int64_t width;
    std::vector<bf16> x;

    explicit Eights(const Tokens &from) : width((from.cols + STEP - 1) / STEP * STEP), x(from.count * width) {
        for (int64_t token = 0; token < from.count; token++)
            for (int64_t i = 0; i < from.cols; i += 8) {
                const int64_t eight = i % STEP / 8, to = i / STEP * STEP + eight % 2 * 32 + eight / 2 * 8;
                std::memcpy(&x[token * width + to], from.row(token) + i, std::min<int64_t>(8, from.cols - i) * sizeof(bf16));
            }
    }
};

struct Table {
    alignas(64) uint8_t upper[128], lower[128];

    Table() {
        for (int code = 0; code < 128; code++) {
            bf16 number;
            store(number, decoded(code));
            upper[code] = number >> 8, lower[code] = number & 255;
        }
    }
};

struct Float8 {
    const uint8_t *codes;
    const float *scales;

    int64_t bytes(int64_t cols) const { return cols; }

    template <int R, int N> void multiply(const Eights &x, int64_t cols, int64_t row, int64_t token, float (*sums)[ROWS]) const {
        static const Table table;
        const __m512i upper[2] = {_mm512_load_si512(table.upper), _mm512_load_si512(table.upper + 64)};
        const __m512i lower[2] = {_mm512_load_si512(table.lower), _mm512_load_si512(table.lower + 64)};
        __m512 even[N][R], odd[N][R];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) even[n][r] = odd[n][r] = _mm512_setzero_ps();
        const uint8_t *const first = codes + row * cols;
        for (int64_t i = 0; i < cols; i += STEP) {
            const __mmask64 present = cols - i >= STEP ? ~0ull : (1ull << (cols - i)) - 1;
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                fetch_behind<R>(first + R * i + r * STEP);
                const __m512i code = _mm512_maskz_loadu_epi8(present, first + r * cols + i);
                const __m512i low = _mm512_permutex2var_epi8(lower[0], code, lower[1]);
                // The sign on top: upper | (code & 128).
                const __m512i high = _mm512_ternarylogic_epi32(_mm512_permutex2var_epi8(upper[0], code, upper[1]), code, _mm512_set1_epi8(-128), 0xf8);
                const __m512bh a = (__m512bh)_mm512_unpacklo_epi8(low, high), b = (__m512bh)_mm512_unpackhi_epi8(low, high);
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) {
                    const bf16 *const of = &x.x[(token + n) * x.width + i];
                    even[n][r] = _mm512_dpbf16_ps(even[n][r], a, (__m512bh)_mm512_loadu_si512(of));
                    odd[n][r] = _mm512_dpbf16_ps(odd[n][r], b, (__m512bh)_mm512_loadu_si512(of + 32));
                }
            }
        }
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            vec both[R];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) both[r] = (vec)even[n][r] + (vec)odd[n][r];
            totals<R>(both, sums[n]);
            for (int r = 0; r < R; r++) sums[n][r] *= scales[row + r];
        }
    }
};

}  // namespace

#endif
