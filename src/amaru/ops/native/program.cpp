// A program: kernels with their arguments, run one after the other by one call. What a decode step costs besides its kernels is this.

#include <omp.h>

#include <chrono>

#include "common.h"
#include "team.h"

thread_local Team *team = nullptr;

namespace {

// A kernel through one signature: it takes its arguments from words, and returns what it refuses, or -1.
using Entry = int64_t (*)(const int64_t *words);

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

// code: for each call the entry, how many words follow, and the words. Stops at a call that refuses, and returns its number.
int64_t follow(const int64_t *code, int64_t calls, int64_t *nanoseconds) {
    for (int64_t i = 0; i < calls; i++, code += 2 + code[1]) {
        const int64_t start = nanoseconds ? now() : 0;
        if (((Entry)code[0])(code + 2) >= 0) return i;
        if (nanoseconds) nanoseconds[i] += now() - start;
    }
    return -1;
}

}  // namespace

// nanoseconds: null, or [calls] to which the time of each is added. Returns -1, or the number of the call that refused.
EXPORT int64_t program_run(const int64_t *code, int64_t calls, int64_t threads, int64_t *nanoseconds) {
    Team mine;
    int64_t refused = -1;
    auto lead = [&] {
        team = &mine;
        refused = follow(code, calls, nanoseconds);
        team = nullptr;
        mine.dismiss();
    };
#pragma omp parallel num_threads(threads)
    omp_get_thread_num() ? mine.help() : lead();
    return refused;
}
