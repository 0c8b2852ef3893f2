// y = x wᵀ + bias with few rows of x: the weight is read from memory once, in the order in which it lies there.

#include "products.h"

namespace {

constexpr int STRIP = 16;  // rows of the weight in a task
constexpr int TILE = 48;   // tokens in a task: their x stays in the second-level cache

constexpr int64_t ALONE_WORK = 1 << 17;  // products for which it does not pay to wake another thread

struct Shape {
    int64_t tokens, rows, cols, x_stride;

    int64_t strips() const { return (rows + STRIP - 1) / STRIP; }
    int64_t tiles() const { return (tokens + TILE - 1) / TILE; }
};

template <int R, int MOST, class T>
void block(const Shape &s, const T *x, const T *w, const T *bias, T *y, int64_t row, int64_t token, int count, bool ahead) {
    float sums[MOST][ROWS];
    multiply<R, MOST>(Matrix<T>{w + row * s.cols, s.cols}, Matrix<T>{x + token * s.x_stride, s.x_stride}, count, s.cols, ahead, sums);
    for (int n = 0; n < count; n++)
        for (int r = 0; r < R; r++) store(y[(token + n) * s.rows + row + r], sums[n][r] + (bias ? load(bias[row + r]) : 0.f));
}

// Whole blocks of R rows; returns the first row behind them.
template <int R, int MOST, class T>
int64_t blocks(const Shape &s, const T *x, const T *w, const T *bias, T *y, int64_t row, int64_t last, int64_t token, int count, bool ahead) {
    for (; row + R <= last; row += R) block<R, MOST>(s, x, w, bias, y, row, token, count, ahead);
    return row;
}

// Tokens go in equal groups, each through all rows of the strip: the strip comes from memory once and then from the cache.
template <class T> void strip(const Shape &s, const T *x, const T *w, const T *bias, T *y, int64_t first, int64_t tile) {
    const int64_t last = std::min(s.rows, first + STRIP), start = tile * TILE, tokens = std::min<int64_t>(TILE, s.tokens - start);
    const int64_t most = tokens <= PAIRED ? PAIRED : MANY, groups = (tokens + most - 1) / most;
    for (int64_t group = 0; group < groups; group++) {
        const int64_t token = start + tokens * group / groups;
        const int count = start + tokens * (group + 1) / groups - token;
        int64_t row = first;
        if (tokens > PAIRED)
            row = blocks<ROWS, MANY>(s, x, w, bias, y, row, last, token, count, group == 0);
        else if (tokens > ALONE)
            row = blocks<2, PAIRED>(s, x, w, bias, y, row, last, token, count, true);
        blocks<1, PAIRED>(s, x, w, bias, y, row, last, token, count, false);
    }
}

template <class T> void linear(const Shape &s, const T *x, const T *w, const T *bias, T *y, int threads) {
    if (s.tokens * s.rows * s.cols < ALONE_WORK) threads = 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < s.tiles() * s.strips(); task++) strip(s, x, w, bias, y, task % s.strips() * STRIP, task / s.strips());
}

}  // namespace

// x [tokens][x_stride], w [rows][cols], bias [rows] or null, y [tokens][rows]; all of one type.
EXPORT void linear_rows(int64_t is_bf16, int64_t tokens, int64_t rows, int64_t cols, int64_t x_stride, const void *x, const void *w,
                        const void *bias, void *y, int64_t threads) {
    const Shape s{tokens, rows, cols, x_stride};
    if (is_bf16)
        linear(s, (const bf16 *)x, (const bf16 *)w, (const bf16 *)bias, (bf16 *)y, threads);
    else
        linear(s, (const float *)x, (const float *)w, (const float *)bias, (float *)y, threads);
}

// Tokens up to which this is faster than torch, as measured; with matrix tiles, which torch uses, the processor is no longer
// waiting for the weight from eight on.
EXPORT int64_t linear_most_tokens() {
#if defined(__AMX_BF16__)
    return 8;
#else
    return 32;
#endif
}
