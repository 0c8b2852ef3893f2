// Memory is read and nothing else: what every other kernel is measured by.

#include "common.h"
#include "team.h"

namespace {

typedef uint64_t lanes __attribute__((vector_size(64)));

// `bytes` as STREAMS parts side by side; told `ahead` bytes before its use what comes, if that is not zero.
template <int STREAMS> uint64_t read(const char *from, int64_t bytes, int64_t ahead) {
    lanes sum[STREAMS] = {};
    const int64_t part = bytes / STREAMS / 64 * 64;
    for (int64_t i = 0; i < part; i += 64)
#pragma GCC unroll 4
        for (int k = 0; k < STREAMS; k++) {
            const char *here = from + k * part + i;
            if (ahead) __builtin_prefetch(here + ahead, 0, 2);
            sum[k] ^= *(const lanes *)here;
        }
    uint64_t total = 0;
    for (int k = 0; k < STREAMS; k++)
        for (int i = 0; i < 8; i++) total ^= sum[k][i];
    return total;
}

}  // namespace

// In pieces of `piece` bytes, 64 at a time; 1 or 4 streams. Returns what keeps a compiler from leaving the reading out.
EXPORT int64_t read_memory(int64_t bytes, const char *from, int64_t piece, int64_t streams, int64_t ahead, int64_t threads) {
    std::atomic<uint64_t> total{0};
    share((bytes + piece - 1) / piece, threads, [&](int64_t i) {
        const int64_t size = std::min(piece, bytes - i * piece);
        total ^= streams == 4 ? read<4>(from + i * piece, size, ahead) : read<1>(from + i * piece, size, ahead);
    });
    return total;
}
