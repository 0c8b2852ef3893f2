// y = x wᵀ + bias where the weight is stored in 8 or 4 bits: only codes come from memory, and they are multiplied as they are.

#include "float8_rows.h"
#include "integer_rows.h"
#include "program.h"
#include "team.h"

namespace {

void expand(const Numbers &numbers, const uint8_t *codes, float scale, int64_t cols, bf16 *to) {
    for (int64_t i = 0; i < cols; i++) store(to[i], numbers.of[codes[i]] * scale);
}

// A block's codes in the order of columns, then a lane at a time.
void expand_four(const uint8_t *codes, const bf16 *scales, int64_t group, int64_t cols, bf16 *to) {
    alignas(64) uint8_t halves[2][STEP], plain[BLOCK];
    for (int64_t first = 0; first < cols; first += BLOCK, codes += BLOCK / 2) {
        for (int pair = 0; pair < 4; pair++) {
            for (int i = 0; i < STEP; i++) halves[0][i] = codes[pair * STEP + i] & 15;
            for (int i = 0; i < STEP; i++) halves[1][i] = codes[pair * STEP + i] >> 4;
            for (int half = 0; half < 2; half++)
                for (int lane = 0; lane < LANES; lane++)
                    std::memcpy(plain + lane * LANE + (2 * pair + half) * 4, halves[half] + lane * 4, 4);
        }
        for (int lane = 0; lane < LANES && first + lane * LANE < cols; lane++) {
            const float scale = load(scales[(first + lane * LANE) / group]);
            const int count = std::min<int64_t>(LANE, cols - first - lane * LANE);
            for (int i = 0; i < count; i++) store(to[first + lane * LANE + i], (plain[lane * LANE + i] - 8) * scale);
        }
    }
}

}  // namespace

// The whole weight as bfloat16, y [rows][cols]; codes and scales as below.
EXPORT void dequantise(int64_t kind, int64_t group, int64_t rows, int64_t cols, const void *codes, const void *scales, bf16 *y,
                       int64_t threads) {
    const Numbers numbers{Kind(kind)};
    if (rows * cols < 1 << 15) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        if (kind == INT4)
            expand_four((const uint8_t *)codes + row * blocked(cols) / 2, (const bf16 *)scales + row * blocked(cols) / group, group, cols,
                        y + row * cols);
        else
            expand(numbers, (const uint8_t *)codes + row * cols, ((const float *)scales)[row], cols, y + row * cols);
}

namespace {

constexpr int64_t STRIP = 1 << 16;   // bytes of codes in a task: they stay near while one group of tokens after the other meets them,
constexpr int64_t STREAM = 1 << 19;  // or are read once and go: the longer a thread reads on, the better memory is used
constexpr int TILE = 48;             // tokens in a task
constexpr int FEW = 4;               // tokens that two rows meet at once; of more, four rows meet two

struct Output {
    const bf16 *bias;
    bf16 *y;
    int64_t rows;

    void put(int64_t token, int64_t row, float sum) const { store(y[token * rows + row], sum + (bias ? load(bias[row]) : 0.f)); }
};

template <class X, class W> struct Product {
    const X &x;
    const W &w;
    const Tokens &tokens;
    const Output &out;

    template <int R, int MOST> void multiply(int64_t row, int64_t token, int count, float (*sums)[ROWS]) const {
        if constexpr (MOST > 1) {
            if (count < MOST) return multiply<R, MOST - 1>(row, token, count, sums);
        }
        w.template multiply<R, MOST>(x, tokens.cols, row, token, sums);
    }

    // Whole blocks of R rows; returns the first row behind them.
    template <int R, int MOST> int64_t blocks(int64_t row, int64_t last, int64_t token, int count) const {
        for (; row + R <= last; row += R) {
            float sums[MOST][ROWS];
            multiply<R, MOST>(row, token, count, sums);
            for (int n = 0; n < count; n++)
                for (int r = 0; r < R; r++) out.put(token + n, row + r, sums[n][r]);
        }
        return row;
    }

    // Tokens go in equal groups, each through all rows of the strip: the strip comes from memory once and then from the cache.
    void strip(int64_t first, int64_t last, int64_t start, int64_t stop) const {
        const int64_t count = stop - start, most = count <= FEW ? FEW : 2, groups = (count + most - 1) / most;
        for (int64_t group = 0; group < groups; group++) {
            const int64_t token = start + count * group / groups;
            const int some = start + count * (group + 1) / groups - token;
            int64_t row = first;
            if (count > FEW)
                row = blocks<4, 2>(row, last, token, some);
            else if (count > 1)
                row = blocks<2, FEW>(row, last, token, some);
            blocks<1, FEW>(row, last, token, some);
        }
    }

    // Of a task: whole blocks, and of a long one four tasks or more for each thread.
    int64_t task_rows(int threads) const {
        const int64_t near = STRIP / w.bytes(tokens.cols), far = std::min(STREAM / w.bytes(tokens.cols), out.rows / (4 * threads));
        return std::max<int64_t>(1, (tokens.count <= FEW ? std::max(near, far) : near) / ROWS) * ROWS;
    }

    void run(int threads) const {
        const int64_t rows = task_rows(threads), strips = (out.rows + rows - 1) / rows;
        if (tokens.count * out.rows * tokens.cols < 1 << 17) threads = 1;  // it does not pay to wake another
        share((tokens.count + TILE - 1) / TILE * strips, threads, [&](int64_t task) {
            const int64_t row = task % strips * rows, token = task / strips * TILE;
            strip(row, std::min(out.rows, row + rows), token, std::min<int64_t>(tokens.count, token + TILE));
        });
    }
};

template <class X, class W> void product(const X &x, const W &w, const Tokens &tokens, const Output &out, int threads) {
    Product<X, W>{x, w, tokens, out}.run(threads);
}

}  // namespace

// Whether this processor multiplies such codes.
EXPORT int64_t quantised_linear_serves(int64_t kind) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
    if (kind != FP8) return 1;
#endif
#if defined(__AVX512VBMI__) && defined(__AVX512BF16__)
    if (kind == FP8) return 1;
#endif
    return 0;
}

// kind: 8 and FP8, codes [rows][cols] and scales float [rows]; or 4, codes [rows][width / 2] and scales bfloat16 [rows][width / group],
// where width is cols rounded up to whole blocks and group 32, 64 or 128. x [tokens][x_stride], bias [rows] or null and y [tokens][rows]
// are bfloat16.
EXPORT void quantised_linear(int64_t kind, int64_t group, int64_t tokens, int64_t rows, int64_t cols, int64_t x_stride, const void *x,
                             const void *codes, const void *scales, const void *bias, void *y, int64_t threads) {
    const Tokens from{tokens, cols, x_stride, (const bf16 *)x};
    const Output to{(const bf16 *)bias, (bf16 *)y, rows};
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
    if (kind == INT8) product(Integers(from, false, threads), Eight{(const int8_t *)codes, (const float *)scales}, from, to, threads);
    if (kind == INT4) {
        const Integers numbers(from, true, threads);
        const auto *c = (const uint8_t *)codes;
        const auto *s = (const bf16 *)scales;
        if (group == LANE) product(numbers, Four<1>{c, s}, from, to, threads);
        if (group == 2 * LANE) product(numbers, Four<2>{c, s}, from, to, threads);
        if (group == 4 * LANE) product(numbers, Four<4>{c, s}, from, to, threads);
    }
#endif
#if defined(__AVX512VBMI__) && defined(__AVX512BF16__)
    if (kind == FP8) product(Eights(from), Float8{(const uint8_t *)codes, (const float *)scales}, from, to, threads);
#endif
}

PROGRAMMABLE(quantised_linear)
