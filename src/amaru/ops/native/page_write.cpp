// Keys or values of new tokens go to the pages of their sequences.

#include "common.h"
#include "program.h"

// x [tokens][stride], of which `width` bytes are copied; pages [sequences][n]: place p of a sequence is row p % page of its page p / page
// in the pool [count][page][width]. owners, positions [tokens]. Returns -1, or the first token whose page the pool does not have: then nothing was done.
EXPORT int64_t page_write(int64_t tokens, int64_t width, int64_t stride, int64_t n, int64_t page, int64_t count, const int64_t *pages,
                          const int64_t *owners, const int64_t *positions, const char *x, char *pool) {
    auto lies = [&](int64_t t) { return pages[owners[t] * n + positions[t] / page]; };
    for (int64_t t = 0; t < tokens; t++)
        if (positions[t] < 0 || positions[t] / page >= n || lies(t) < 0 || lies(t) >= count) return t;
    for (int64_t t = 0; t < tokens; t++)
        std::memcpy(pool + (lies(t) * page + positions[t] % page) * width, x + t * stride, width);
    return -1;
}

PROGRAMMABLE(page_write)
