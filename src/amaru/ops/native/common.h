// What the kernels share: bfloat16, vectors, an exponential that the compiler can vectorise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

// Floats in a vector. Twice as wide as a register is no loss; narrower is.
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif

typedef float vec __attribute__((vector_size(WIDTH * sizeof(float))));

inline int padded(int n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

// Zeroed floats, aligned for `vec`.
struct Floats {
    explicit Floats(size_t n) : size(n), data(static_cast<float *>(::operator new(n * sizeof(float), alignment))) { zero(); }
    ~Floats() { ::operator delete(data, alignment); }
    Floats(const Floats &) = delete;
    Floats &operator=(const Floats &) = delete;
    void zero() { std::memset(data, 0, size * sizeof(float)); }
    float *at(size_t i) { return data + i; }
    float &operator[](size_t i) { return data[i]; }

    static constexpr std::align_val_t alignment{64};
    size_t size;
    float *data;
};

using bf16 = uint16_t;  // a class would hide the numbers from the vectoriser, and so would memcpy

inline float load(float v) { return v; }
inline float load(bf16 v) { return __builtin_bit_cast(float, uint32_t(v) << 16); }

inline void store(float &to, float v) { to = v; }

// Round to nearest, ties to even; a NaN stays one.
inline void store(bf16 &to, float v) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, v);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to = bf16(v != v ? 0x7fc0 : rounded);
}

// e^x to 2 ulp for finite results; overflows to about 1e38 and underflows to about 1e-38, which a sigmoid does not notice.
// x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial in r (Cephes).
inline float exponential(float x) {
    x = x < -87.f ? -87.f : x;
    x = x > 88.f ? 88.f : x;
    float n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // adding 1.5 * 2^23 rounds to an integer
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    return p * __builtin_bit_cast(float, (int32_t(n) + 127) << 23);
}

inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }
