// silu(gate) * up, each rounded as torch rounds it. Small inputs stay on one thread.

#include "common.h"
#include "program.h"
#include "team.h"

namespace {

constexpr int64_t PART = 1 << 15;  // elements of a task

template <class T> void product(int64_t size, const T *gate, const T *up, T *to, int threads) {
    share((size + PART - 1) / PART, threads, [&](int64_t part) {
        const int64_t last = std::min(size, (part + 1) * PART);
#pragma omp simd
        for (int64_t i = part * PART; i < last; i++) {
            const float x = load(gate[i]);
            T opened;
            store(opened, x * sigmoid(x));
            store(to[i], load(opened) * load(up[i]));
        }
    });
}

}  // namespace

EXPORT void gated_silu(int64_t is_bf16, int64_t size, const void *gate, const void *up, void *to, int64_t threads) {
    if (is_bf16)
        product(size, (const bf16 *)gate, (const bf16 *)up, (bf16 *)to, threads);
    else
        product(size, (const float *)gate, (const float *)up, (float *)to, threads);
}

PROGRAMMABLE(gated_silu)
