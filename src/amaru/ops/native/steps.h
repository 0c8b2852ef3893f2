// What the steps of Mamba-1 and Mamba-2 share: parameters of either type, softplus, and the convolution with a state that stays in place.
#pragma once

#include "common.h"

constexpr int MOST_TAPS = 8;

// Parameters as they are stored, float or bfloat16.
struct Reals {
    const void *data;
    bool is_bf16;

    void read(int64_t first, int64_t count, float *to) const {
        for (int64_t i = 0; i < count; i++) to[i] = is_bf16 ? load(((const bf16 *)data)[first + i]) : ((const float *)data)[first + i];
    }
};

inline float softplus(float x) { return x > 20.f ? x : std::log1p(std::exp(x)); }

// `count` rows of the convolution from `first` on, and their state moved on by one token. Rows go in small runs whose states are first
// laid out tap by tap, so that each of the loops is one that the compiler can vectorise.
template <int TAPS, class T>
void convolve(int64_t taps, const T *x, T *state, bool fresh, const float *weight, const float *bias, float *to, int64_t count) {
    constexpr int RUN = 64;
    const int lag = (TAPS ? TAPS : taps) - 1;
    float held[(TAPS ? TAPS : MOST_TAPS) - 1][RUN];
    for (int64_t first = 0; first < count; first += RUN, state += RUN * lag) {
        const int run = std::min<int64_t>(RUN, count - first);
        if (fresh) std::fill_n(state, run * lag, T(0));
        for (int k = 0; k < lag; k++)
            for (int i = 0; i < run; i++) held[k][i] = load(state[i * lag + k]);
        for (int i = 0; i < run; i++) {
            const float *w = weight + (first + i) * (lag + 1);
            float sum = bias[first + i] + w[lag] * load(x[first + i]);
            for (int k = 0; k < lag; k++) sum += w[k] * held[k][i];
            to[first + i] = sum * sigmoid(sum);
        }
        for (int i = 0; i < run; i++) {
            for (int k = 0; k + 1 < lag; k++) state[i * lag + k] = state[i * lag + k + 1];
            if (lag) state[i * lag + lag - 1] = x[first + i];
        }
    }
}
