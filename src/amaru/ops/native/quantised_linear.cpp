// y = x wᵀ + bias where the weight is stored in 8 or 4 bits: only codes come from memory, and they are multiplied as they are.
//
// x becomes 16-bit integers with one scale for each token, q = 256 high + low with both halves in 8 bits, and an instruction adds
// sixty-four products of codes and halves. Sums of integers are exact; they meet their scales afterwards, lane by lane and in an order
// that depends on the width of the rows alone.

#include "products.h"

namespace {

constexpr int GROUP = 32, LANES = 16; // of 4 bits: columns that share a scale, and such groups in a block
constexpr int BLOCK = GROUP * LANES;  // lane l of step s holds columns 4 s to 4 s + 3 of group l
constexpr int STEP = 64;              // codes of an instruction

int64_t blocked(int64_t cols) { return (cols + BLOCK - 1) / BLOCK * BLOCK; }

void expand_eight(const int8_t *codes, float scale, int64_t cols, bf16 *to) {
    for (int64_t i = 0; i < cols; i++) store(to[i], codes[i] * scale);
}

// A block's codes in the order of columns, then a group at a time.
void expand_four(const uint8_t *codes, const bf16 *scales, int64_t cols, bf16 *to) {
    alignas(64) uint8_t halves[2][STEP], plain[BLOCK];
    for (int64_t first = 0; first < cols; first += BLOCK, codes += BLOCK / 2, scales += LANES) {
        for (int pair = 0; pair < 4; pair++) {
            for (int i = 0; i < STEP; i++) halves[0][i] = codes[pair * STEP + i] & 15;
            for (int i = 0; i < STEP; i++) halves[1][i] = codes[pair * STEP + i] >> 4;
            for (int half = 0; half < 2; half++)
                for (int lane = 0; lane < LANES; lane++)
                    std::memcpy(plain + lane * GROUP + (2 * pair + half) * 4, halves[half] + lane * 4, 4);
        }
        for (int lane = 0; lane < LANES && first + lane * GROUP < cols; lane++) {
            const float scale = load(scales[lane]);
            const int count = std::min<int64_t>(GROUP, cols - first - lane * GROUP);
            for (int i = 0; i < count; i++) store(to[first + lane * GROUP + i], (plain[lane * GROUP + i] - 8) * scale);
        }
    }
}

}  // namespace

// The whole weight as bfloat16, y [rows][cols]; codes and scales as below.
EXPORT void dequantise(int64_t bits, int64_t rows, int64_t cols, const void *codes, const void *scales, bf16 *y, int64_t threads) {
    if (rows * cols < 1 << 15) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        if (bits == 8)
            expand_eight((const int8_t *)codes + row * cols, ((const float *)scales)[row], cols, y + row * cols);
        else
            expand_four((const uint8_t *)codes + row * blocked(cols) / 2, (const bf16 *)scales + row * blocked(cols) / GROUP, cols,
                        y + row * cols);
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

namespace {

constexpr int STRIP = 16, TILE = 48;  // rows and tokens of a task
constexpr float LARGEST = 127 * 256;

struct Shape {
    int64_t tokens, rows, cols, x_stride;
    const bf16 *x, *bias;
    bf16 *y;

    int64_t strips() const { return (rows + STRIP - 1) / STRIP; }
    int64_t tiles() const { return (tokens + TILE - 1) / TILE; }
};

// The tokens as integers. `sums` are those that codes, which are not negative, must be freed of: of all columns, or of each group.
struct Integers {
    int64_t width;  // columns, rounded up to whole steps or blocks
    std::vector<int8_t> high, low;
    std::vector<float> scale, sums;
    int64_t sums_each;

    Integers(const Shape &s, bool grouped, int threads)
        : width(grouped ? blocked(s.cols) : (s.cols + STEP - 1) / STEP * STEP), high(s.tokens * width),
          low(s.tokens * width), scale(s.tokens), sums(s.tokens * (grouped ? width / GROUP : 1)), sums_each(grouped ? width / GROUP : 1) {
#pragma omp parallel for schedule(static) num_threads(s.tokens * s.cols < 1 << 15 ? 1 : threads)
        for (int64_t token = 0; token < s.tokens; token++) {
            std::vector<int32_t> q(width);
            scale[token] = round(s.x + token * s.x_stride, s.cols, q.data());
            grouped ? take_groups(token, q.data()) : take(token, q.data());
        }
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
        if (strange != 0 || most == 0) return strange;
        const float factor = LARGEST / most;
        if (factor > 1e38f) return 0;
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
    void take_groups(int64_t token, const int32_t *q) {
        int8_t upper[BLOCK], lower[BLOCK];
        for (int64_t first = 0; first < width; first += BLOCK) {
            split(q + first, BLOCK, upper, lower);
            for (int step = 0; step < GROUP / 4; step++)
                for (int lane = 0; lane < LANES; lane++) {
                    const int64_t to = token * width + first + step * STEP + lane * 4, from = lane * GROUP + step * 4;
                    std::memcpy(&high[to], upper + from, 4);
                    std::memcpy(&low[to], lower + from, 4);
                }
            for (int lane = 0; lane < LANES; lane++) {
                int32_t sum = 0;
                for (int i = 0; i < GROUP; i++) sum += q[first + lane * GROUP + i];
                sums[token * sums_each + first / GROUP + lane] = sum;
            }
        }
    }
};

inline __m512i load_codes(const void *from) { return _mm512_loadu_si512(from); }

// 256 high + low of two sums of integers.
inline vec joined(__m512i high, __m512i low) { return (vec)_mm512_cvtepi32_ps(high) * 256.f + (vec)_mm512_cvtepi32_ps(low); }

// One scale for a row; codes are the numbers themselves, and meet x as numbers that are 128 more.
struct Eight {
    const int8_t *codes;
    const float *scales;

    template <int R, int N> void multiply(const Shape &s, const Integers &x, int64_t row, int64_t token, float (*sums)[ROWS]) const {
        __m512i high[N][R], low[N][R];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) high[n][r] = low[n][r] = _mm512_setzero_si512();
        for (int64_t i = 0; i < s.cols; i += STEP) {
            const __mmask64 present = s.cols - i >= STEP ? ~0ull : (1ull << (s.cols - i)) - 1;
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const int8_t *from = codes + (row + r) * s.cols + i;
                if (R > 1) __builtin_prefetch((const char *)(codes + row * s.cols) + R * i + r * STEP + AHEAD, 0, 2);
                const __m512i code = _mm512_xor_si512(_mm512_maskz_loadu_epi8(present, from), _mm512_set1_epi8(-128));
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) {
                    high[n][r] = _mm512_dpbusd_epi32(high[n][r], code, load_codes(&x.high[(token + n) * x.width + i]));
                    low[n][r] = _mm512_dpbusd_epi32(low[n][r], code, load_codes(&x.low[(token + n) * x.width + i]));
                }
            }
        }
        for (int n = 0; n < N; n++) {
            vec both[R];
            for (int r = 0; r < R; r++) both[r] = joined(high[n][r], low[n][r]);
            totals<R>(both, sums[n]);
            for (int r = 0; r < R; r++) sums[n][r] = (sums[n][r] - 128.f * x.sums[token + n]) * (scales[row + r] * x.scale[token + n]);
        }
    }
};

// A scale for each group of a block, a lane for each; codes are 8 more than their numbers. Of two steps that share sixty-four bytes the
// first lies in the low halves.
struct Four {
    const uint8_t *codes;
    const bf16 *scales;

    template <int R, int N> void multiply(const Shape &s, const Integers &x, int64_t row, int64_t token, float (*sums)[ROWS]) const {
        vec sum[N][R] = {};
        const __m512i half = _mm512_set1_epi8(15);
        for (int64_t i = 0; i < x.width; i += BLOCK)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const uint8_t *from = codes + ((row + r) * x.width + i) / 2;
                __m512i high[N], low[N];
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) high[n] = low[n] = _mm512_setzero_si512();
#pragma GCC unroll 8
                for (int step = 0; step < 8; step++) {
                    const __m512i bytes = load_codes(from + step / 2 * STEP);
                    const __m512i code = _mm512_and_si512(step % 2 ? _mm512_srli_epi16(bytes, 4) : bytes, half);
#pragma GCC unroll 8
                    for (int n = 0; n < N; n++) {
                        const int64_t place = (token + n) * x.width + i + step * STEP;
                        high[n] = _mm512_dpbusd_epi32(high[n], code, load_codes(&x.high[place]));
                        low[n] = _mm512_dpbusd_epi32(low[n], code, load_codes(&x.low[place]));
                    }
                }
                const __m256i stored = _mm256_loadu_si256((const __m256i *)(scales + ((row + r) * x.width + i) / GROUP));
                const vec scale = (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(stored), 16);
#pragma GCC unroll 8
                for (int n = 0; n < N; n++) {
                    const vec of_group = unaligned<vec>(&x.sums[(token + n) * x.sums_each + i / GROUP]);
                    sum[n][r] += scale * (joined(high[n], low[n]) - 8.f * of_group);
                }
            }
        for (int n = 0; n < N; n++) {
            totals<R>(sum[n], sums[n]);
            for (int r = 0; r < R; r++) sums[n][r] *= x.scale[token + n];
        }
    }
};

template <int R, int MOST, class W>
void multiply_some(const Shape &s, const Integers &x, const W &w, int64_t row, int64_t token, int count, float (*sums)[ROWS]) {
    if constexpr (MOST > 1) {
        if (count < MOST) return multiply_some<R, MOST - 1>(s, x, w, row, token, count, sums);
    }
    w.template multiply<R, MOST>(s, x, row, token, sums);
}

template <int R, int MOST, class W> int64_t blocks(const Shape &s, const Integers &x, const W &w, int64_t row, int64_t last, int64_t token, int count) {
    for (; row + R <= last; row += R) {
        float sums[MOST][ROWS];
        multiply_some<R, MOST>(s, x, w, row, token, count, sums);
        for (int n = 0; n < count; n++)
            for (int r = 0; r < R; r++) store(s.y[(token + n) * s.rows + row + r], sums[n][r] + (s.bias ? load(s.bias[row + r]) : 0.f));
    }
    return row;
}

// As in linear.cpp: few tokens take rows one by one, many go in equal groups through all rows of a strip.
template <class W> void strip(const Shape &s, const Integers &x, const W &w, int64_t first, int64_t tile) {
    constexpr int MOST = 4;
    const int64_t last = std::min(s.rows, first + STRIP), start = tile * TILE, tokens = std::min<int64_t>(TILE, s.tokens - start);
    const int64_t groups = (tokens + MOST - 1) / MOST;
    for (int64_t group = 0; group < groups; group++) {
        const int64_t token = start + tokens * group / groups;
        const int count = start + tokens * (group + 1) / groups - token;
        int64_t row = first;
        if (tokens > ALONE) row = blocks<2, MOST>(s, x, w, row, last, token, count);
        blocks<1, MOST>(s, x, w, row, last, token, count);
    }
}

template <class W> void linear(const Shape &s, const W &w, bool grouped, int threads) {
    const Integers x(s, grouped, threads);
    if (s.tokens * s.rows * s.cols < 1 << 17) threads = 1;  // it does not pay to wake another
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < s.tiles() * s.strips(); task++) strip(s, x, w, task % s.strips() * STRIP, task / s.strips());
}

}  // namespace

EXPORT int64_t quantised_linear_serves() { return 1; }

// bits: 8, codes [rows][cols] and scales float [rows]; or 4, codes [rows][width / 2] and scales bfloat16 [rows][width / GROUP], where width is
// cols rounded up to whole blocks. x [tokens][x_stride], bias [rows] or null and y [tokens][rows] are bfloat16.
EXPORT void quantised_linear(int64_t bits, int64_t tokens, int64_t rows, int64_t cols, int64_t x_stride, const void *x, const void *codes,
                             const void *scales, const void *bias, void *y, int64_t threads) {
    const Shape s{tokens, rows, cols, x_stride, (const bf16 *)x, (const bf16 *)bias, (bf16 *)y};
    if (bits == 8)
        linear(s, Eight{(const int8_t *)codes, (const float *)scales}, false, threads);
    else
        linear(s, Four{(const uint8_t *)codes, (const bf16 *)scales}, true, threads);
}

#else

EXPORT int64_t quantised_linear_serves() { return 0; }

#endif
