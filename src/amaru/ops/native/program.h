// How a program calls a kernel: by a second entry that takes its arguments from words of 64 bits.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#include "common.h"

template <class T> T of_word(int64_t word) {
    if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(word);
    T value;
    std::memcpy(&value, &word, sizeof value);  // the low bytes, where a float was put
    return value;
}

template <class... A, size_t... I> int64_t call_with(int64_t (*kernel)(A...), const int64_t *words, std::index_sequence<I...>) {
    return kernel(of_word<A>(words[I])...);
}

template <class... A, size_t... I> int64_t call_with(void (*kernel)(A...), const int64_t *words, std::index_sequence<I...>) {
    kernel(of_word<A>(words[I])...);
    return -1;
}

template <class R, class... A> int64_t from_words(R (*kernel)(A...), const int64_t *words) {
    return call_with(kernel, words, std::index_sequence_for<A...>());
}

#define PROGRAMMABLE(kernel) \
    EXPORT int64_t kernel##_from_words(const int64_t *words) { return from_words(kernel, words); }
