// Vectors of the processor, by the extensions that GCC and Clang share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#ifndef REAL
#define REAL float
#endif

typedef REAL Real;

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

typedef Real Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef Real HalfVector __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef Real Quad __attribute__((vector_size(4 * sizeof(Real))));
typedef std::conditional_t<sizeof(Real) == 4, int32_t, int64_t> Index;
typedef Index IndexQuad __attribute__((vector_size(4 * sizeof(Real))));

template <typename V>
constexpr int lanes() { return sizeof(V) / sizeof(Real); }

constexpr int LANES = lanes<Vector>();

template <typename V = Vector>
inline V load(const Real* from) {
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
}

template <typename V>
inline void store(Real* to, V v) { std::memcpy(to, &v, sizeof(V)); }

// The first `count` values, zeros behind them.
inline Vector load_part(const Real* from, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4) {
        return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
    } else {
        return (Vector)_mm512_maskz_loadu_pd((__mmask8)((1u << count) - 1), from);
    }
#else
    Real values[LANES] = {};
    for (int k = 0; k < count; ++k) values[k] = from[k];
    return load(values);
#endif
}

template <typename V>
inline V filled(Real value) { return value - V{}; }

// a * b + c, rounded once where the processor can.
template <typename V>
inline V fused(V a, V b, V c) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) {
        if constexpr (sizeof(Real) == 4) {
            return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
        } else {
            return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
        }
    }
#endif
#if defined(__FMA__)
    if constexpr (sizeof(V) == 32) {
        if constexpr (sizeof(Real) == 4) {
            return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
        } else {
            return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
        }
    }
    if constexpr (sizeof(V) == 16) {
        if constexpr (sizeof(Real) == 4) {
            return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
        } else {
            return (V)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
        }
    }
#endif
    return a * b + c;
}

// The sum of all lanes, always in the same order.
inline Real sum(Vector v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4) {
        return _mm512_reduce_add_ps((__m512)v);
    } else {
        return _mm512_reduce_add_pd((__m512d)v);
    }
#else
    Real total = 0;
    for (int k = 0; k < LANES; ++k) total += v[k];
    return total;
#endif
}

// Four values at `indices` of `from`. Single loads beat the processor's own gather while `from` is
// in the first cache level, and lose little to it beyond.
inline Quad gather(const Real* from, const int32_t* indices) {
    return Quad{from[indices[0]], from[indices[1]], from[indices[2]], from[indices[3]]};
}

inline Real sum_of_four(Quad v) { return (v[0] + v[2]) + (v[1] + v[3]); }

// Write the places of values other than zero to `places`; return how many there are.
inline int64_t find_nonzero(const Real* values, int64_t count, int32_t* places) {
    int64_t found = 0, i = 0;
#if defined(__AVX512F__)
    for (; i + LANES <= count; i += LANES) {
        uint32_t hits;
        if constexpr (sizeof(Real) == 4) {
            const __m512 v = _mm512_loadu_ps(values + i);
            hits = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        } else {
            const __m512d v = _mm512_loadu_pd(values + i);
            hits = _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NEQ_UQ);
        }
        for (; hits; hits &= hits - 1) places[found++] = (int32_t)i + __builtin_ctz(hits);
    }
#endif
    for (; i < count; ++i) {
        places[found] = (int32_t)i;
        found += values[i] != 0;
    }
    return found;
}
