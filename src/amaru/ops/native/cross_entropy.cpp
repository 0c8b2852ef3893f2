// -log softmax(logits)[target] of each token, and its gradient in the place of the logits. A token is one task, so nothing depends
// on the number of threads.

#include "common.h"

namespace {

template <class T> float largest(const T *logits, int64_t vocab) {
    float most = load(logits[0]);
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < vocab; i++) most = std::max(most, load(logits[i]));
    return most;
}

template <class T> float token(T *logits, int64_t vocab, int64_t target, float *powers) {
    const float most = largest(logits, vocab), own = load(logits[target]);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < vocab; i++) sum += powers[i] = exponential(load(logits[i]) - most);
    const float share = 1.f / sum;
#pragma omp simd
    for (int64_t i = 0; i < vocab; i++) store(logits[i], powers[i] * share);
    store(logits[target], powers[target] * share - 1.f);
    return std::log(sum) + most - own;
}

template <class T> void all(int64_t tokens, int64_t vocab, T *logits, const int64_t *targets, int64_t ignored, float *losses, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Floats powers(vocab);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) {
            T *row = logits + t * vocab;
            if (targets[t] == ignored) std::memset(row, 0, vocab * sizeof(T));
            losses[t] = targets[t] == ignored ? 0.f : token(row, vocab, targets[t], powers.data);
        }
    }
}

}  // namespace

// logits [tokens][vocab]; targets below vocab, or `ignored`, whose loss and gradient are zero; losses [tokens].
EXPORT void cross_entropy(int64_t is_bf16, int64_t tokens, int64_t vocab, void *logits, const int64_t *targets, int64_t ignored, float *losses,
                          int64_t threads) {
    if (is_bf16)
        all(tokens, vocab, (bf16 *)logits, targets, ignored, losses, threads);
    else
        all(tokens, vocab, (float *)logits, targets, ignored, losses, threads);
}
