// y = x wᵀ + bias with few rows of x: the weight is read from memory once, in the order in which it lies there.

#include "products.h"
#include "program.h"
#include "team.h"

namespace {

constexpr int STRIP = 16;  // rows of the weight that are near while all tokens go through them
constexpr int TILE = 48;   // tokens in a task: their x stays in the second-level cache

// Bytes of the weight in a task: the longer a thread reads on, the better memory is used (32 kB: 28 GB/s, 512 kB: 31).
constexpr int64_t STREAM = 1 << 19;

constexpr int64_t NEAR = 24 << 10;  // bytes of x that stay in the first-level cache beside the weight

constexpr int64_t ALONE_WORK = 1 << 17;  // products for which it does not pay to wake another thread

template <class T> struct Product {
    int64_t tokens, rows, cols, x_stride;
    const T *x, *w, *bias;
    T *y;

    int64_t tiles() const { return (tokens + TILE - 1) / TILE; }

    // Of a task: whole strips, and four tasks or more for each thread.
    int64_t task_rows(int threads) const {
        const int64_t wanted = std::min<int64_t>(STREAM / (cols * sizeof(T)), rows / (4 * threads));
        return std::max<int64_t>(1, wanted / STRIP) * STRIP;
    }

    template <int R, int MOST, int FETCHED = R> void block(int64_t row, int64_t token, int count, const T *next) const {
        float sums[MOST][ROWS];
        multiply<R, MOST, FETCHED>(Matrix<T>{w + row * cols, cols}, Matrix<T>{x + token * x_stride, x_stride}, count, cols, next, sums);
        for (int n = 0; n < count; n++)
            for (int r = 0; r < R; r++) store(y[(token + n) * rows + row + r], sums[n][r] + (bias ? load(bias[row + r]) : 0.f));
    }

    // Few tokens, through all rows from `row` to `last`: the weight is fetched a little ahead of its use.
    void few(int64_t row, int64_t last, int64_t token, int count) const {
        const int64_t ahead = AHEAD / sizeof(T);
        if (count > ALONE)
            for (; row + 2 <= last; row += 2) block<2, PAIRED>(row, token, count, w + row * cols + ahead);
        for (; row < last; row++) block<1, PAIRED>(row, token, count, w + row * cols + ahead / 4);
    }

    // Many tokens, in equal groups, each through all rows of a strip; the next strip is fetched row by row while they are computed.
    template <int FETCHED> void many(int64_t first, int64_t last, int64_t start, int64_t count, int groups) const {
        for (int64_t strip = first; strip < last; strip += STRIP) {
            const int64_t stop = std::min(last, strip + STRIP), end = std::min(last, stop + STRIP);
            int64_t fetched = stop;
            for (int group = 0; group < groups; group++) {
                const int64_t token = start + count * group / groups, next = start + count * (group + 1) / groups;
                int64_t row = strip;
                for (; row + ROWS <= stop; row += ROWS, fetched += FETCHED)
                    block<ROWS, MANY, FETCHED>(row, token, next - token, fetched < end ? w + fetched * cols : nullptr);
                for (; row < stop; row++) block<1, PAIRED>(row, token, next - token, nullptr);
            }
        }
    }

    void task(int64_t first, int64_t last, int64_t tile) const {
        const int64_t start = tile * TILE, count = std::min<int64_t>(TILE, tokens - start);
        const int groups = (count + MANY - 1) / MANY;
        if (count <= ALONE || (count <= PAIRED && count * cols * (int64_t)sizeof(T) <= NEAR))
            few(first, last, start, count);
        else if (groups == 1)
            many<ROWS>(first, last, start, count, groups);
        else if (groups < ROWS)
            many<2>(first, last, start, count, groups);
        else
            many<1>(first, last, start, count, groups);
    }

    void run(int threads) const {
        if (tokens * rows * cols < ALONE_WORK) threads = 1;
        const int64_t each = task_rows(threads), parts = (rows + each - 1) / each;
        share(tiles() * parts, threads, [&](int64_t i) { task(i % parts * each, std::min(rows, (i % parts + 1) * each), i / parts); });
    }
};

}  // namespace

// x [tokens][x_stride], w [rows][cols], bias [rows] or null, y [tokens][rows]; all of one type.
EXPORT void linear_rows(int64_t is_bf16, int64_t tokens, int64_t rows, int64_t cols, int64_t x_stride, const void *x, const void *w,
                        const void *bias, void *y, int64_t threads) {
    auto run = [&](auto type) {
        using T = decltype(type);
        Product<T>{tokens, rows, cols, x_stride, (const T *)x, (const T *)w, (const T *)bias, (T *)y}.run(threads);
    };
    is_bf16 ? run(bf16()) : run(float());
}

PROGRAMMABLE(linear_rows)

// Tokens up to which this is faster than torch, as measured; with matrix tiles, which torch uses, the processor is no longer
// waiting for the weight from eight on.
EXPORT int64_t linear_most_tokens() {
#if defined(__AMX_BF16__)
    return 8;
#else
    return 32;
#endif
}
