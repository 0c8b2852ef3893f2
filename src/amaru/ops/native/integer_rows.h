// Rows of integer codes times tokens, by integer instructions.
//
// x becomes 16-bit integers with one scale for each token, q = 256 high + low with both halves in 8 bits, and an instruction adds
// sixty-four products of codes and halves. Sums of integers are exact; they meet their scales afterwards, lane by lane and in an order
// that depends on the width of the rows alone.
#pragma once

#include "codes.h"
#include "team.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

namespace {

constexpr float LARGEST = 127 * 256;
constexpr int64_t ALONE_WORK = 1 << 14;  // numbers that one thread rounds in the time that it takes to wake another

// The tokens as integers. `sums` are those that codes, which are not negative, must be freed of: of all columns, or of each lane.
struct Integers {
    int64_t width;  // columns, rounded up to whole steps or blocks
    std::vector<int8_t> high, low;
    std::vector<float> scale, sums;
    int64_t sums_each;

    Integers(const Tokens &x, bool grouped, int threads)
        : width(grouped ? blocked(x.cols) : (x.cols + STEP - 1) / STEP * STEP), high(x.count * width), low(x.count * width), scale(x.count),
          sums(x.count * (grouped ? width / LANE : 1)), sums_each(grouped ? width / LANE : 1) {
        share(x.count, x.count * width < ALONE_WORK ? 1 : threads, [&](int64_t token) {
            std::vector<int32_t> q(width);
            scale[token] = round(x.row(token), x.cols, q.data());
            grouped ? take_lanes(token, q.data()) : take(token, q.data());
        });
    }

    // Returns the scale; that of a token which is not finite is NaN, and so is then all that it meets.
    static float round(const bf16 *x, int64_t cols, int32_t *q) {
        float most = 0, strange = 0;
#pragma omp simd reduction(max : most) reduction(+ : strange)
        for (int64_t i = 0; i < cols; i++) {
            const float v = load(x[i]);
            most = std::max(most, std::fabs(v));
            strange += v * 0.f;
        }
        const float factor = LARGEST / most;
        if (strange != 0 || most == 0 || factor > 1e38f) {
            std::fill_n(q, cols, 0);
            return strange;
        }
        for (int64_t i = 0; i < cols; i++) q[i] = (int32_t)std::nearbyint(load(x[i]) * factor);
        return most / LARGEST;
    }
    // q = 256 high + low
    static void split(const int32_t *q, int64_t count, int8_t *high, int8_t *low) {
        for (int64_t i = 0; i < count; i++) {
            const int8_t upper = (q[i] + 128) >> 8;
            high[i] = upper;
            low[i] = q[i] - upper * 256;
        }
    }
    void take(int64_t token, const int32_t *q) {
        split(q, width, &high[token * width], &low[token * width]);
        int64_t sum = 0;
        for (int64_t i = 0; i < width; i++) sum += q[i];
        sums[token] = sum;
    }
    void take_lanes(int64_t token, const int32_t *q) {
        int8_t upper[BLOCK], lower[BLOCK];
        for (int64_t first = 0; first < width; first += BLOCK) {
            split(q + first, BLOCK, upper, lower);
            for (int step = 0; step < LANE / 4; step++)
                for (int lane = 0; lane < LANES; lane++) {
                    const int64_t to = token * width + first + step * STEP + lane * 4, from = lane * LANE + step * 4;
                    std::memcpy(&high[to], upper + from, 4);
                    std::memcpy(&low[to], lower + from, 4);
                }
            for (int lane = 0; lane < LANES; lane++) {
                int32_t sum = 0;
                for (int i = 0; i < LANE; i++) sum += q[first + lane * LANE + i];
                sums[token * sums_each + first / LANE + lane] = sum;
            }
        }
    }
};

inline __m512i load_codes(const void *from) { return _mm512_loadu_si512(from); }

// 256 high + low of two sums of integers.
inline vec joined(__m512i high, __m512i low) { return (vec)_mm512_cvtepi32_ps(high) * 256.f + (vec)_mm512_cvtepi32_ps(low); }

// Sixty-four columns of R rows and N tokens: as many sums as are wanted, in registers. Every loop over them is unrolled, or they are not.
template <int R, int N> struct Sums {
    __m512i high[N][R], low[N][R];

    Sums() {
#pragma GCC unroll 8
        for (int n = 0; n < N; n++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) high[n][r] = low[n][r] = _mm512_setzero_si512();
    }
    void add(const __m512i (&codes)[R], const Integers &x, int64_t token, int64_t place) {
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            const __m512i upper = load_codes(&x.high[(token + n) * x.width + place]), lower = load_codes(&x.low[(token + n) * x.width + place]);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                high[n][r] = _mm512_dpbusd_epi32(high[n][r], codes[r], upper);
                low[n][r] = _mm512_dpbusd_epi32(low[n][r], codes[r], lower);
            }
        }
    }
};

// One scale for a row; codes are the numbers themselves, and meet x as numbers that are 128 more.
struct Eight {
    const int8_t *codes;
    const float *scales;

    int64_t bytes(int64_t cols) const { return cols; }

    template <int R, int N> void multiply(const Integers &x, int64_t cols, int64_t row, int64_t token, float (*sums)[ROWS]) const {
        Sums<R, N> sum;
        const int8_t *const first = codes + row * cols;
        int64_t i = 0;
        for (; i + STEP <= cols; i += STEP) add<R, N>(first, cols, i, ~0ull, x, token, sum);
        if (i < cols) add<R, N>(first, cols, i, (1ull << (cols - i)) - 1, x, token, sum);
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            vec both[R];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) both[r] = joined(sum.high[n][r], sum.low[n][r]);
            totals<R>(both, sums[n]);
            for (int r = 0; r < R; r++) sums[n][r] = (sums[n][r] - 128.f * x.sums[token + n]) * (scales[row + r] * x.scale[token + n]);
        }
    }

    template <int R, int N>
    static void add(const int8_t *first, int64_t cols, int64_t i, __mmask64 present, const Integers &x, int64_t token, Sums<R, N> &sum) {
        __m512i code[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            fetch_behind<R>(first + R * i + r * STEP);
            code[r] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(present, first + r * cols + i), _mm512_set1_epi8(-128));
        }
        sum.add(code, x, token, i);
    }
};

// A scale for every SPREAD lanes of a block; codes are 8 more than their numbers. Of two steps that share sixty-four bytes the first
// lies in the low halves.
template <int SPREAD> struct Four {
    const uint8_t *codes;
    const bf16 *scales;

    int64_t bytes(int64_t cols) const { return blocked(cols) / 2; }

    template <int R, int N> void multiply(const Integers &x, int64_t, int64_t row, int64_t token, float (*sums)[ROWS]) const {
        vec total[N][R] = {};
        for (int64_t i = 0; i < x.width; i += BLOCK) {
            Sums<R, N> sum;
            add<R, N>(codes + row * x.width / 2, x, token, i, sum);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const vec scale = lanes(scales + ((row + r) * x.width + i) / (LANE * SPREAD));
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) {
                    const vec of_lane = unaligned<vec>(&x.sums[(token + n) * x.sums_each + i / LANE]);
                    total[n][r] += scale * (joined(sum.high[n][r], sum.low[n][r]) - 8.f * of_lane);
                }
            }
        }
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            totals<R>(total[n], sums[n]);
            for (int r = 0; r < R; r++) sums[n][r] *= x.scale[token + n];
        }
    }

    template <int R, int N> static void add(const uint8_t *first, const Integers &x, int64_t token, int64_t i, Sums<R, N> &sum) {
        const __m512i half = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; pair++) {
            __m512i lower[R], upper[R];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                fetch_behind<R>(first + R * i / 2 + (4 * r + pair) * STEP);
                const __m512i bytes = load_codes(first + (r * x.width + i) / 2 + pair * STEP);
                lower[r] = _mm512_and_si512(bytes, half), upper[r] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), half);
            }
            sum.add(lower, x, token, i + 2 * pair * STEP);
            sum.add(upper, x, token, i + (2 * pair + 1) * STEP);
        }
    }

    // The scale of each lane.
    static vec lanes(const bf16 *from) {
        uint16_t stored[LANES] = {};
        std::memcpy(stored, from, LANES / SPREAD * sizeof(bf16));
        const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)stored)), 16);
        const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        return (vec)_mm512_permutexvar_epi32(_mm512_srli_epi32(lane, SPREAD == 1 ? 0 : SPREAD == 2 ? 1 : 2), wide);
    }
};

}  // namespace

#endif
