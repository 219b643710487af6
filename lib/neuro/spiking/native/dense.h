// Products with dense weights [pre, post].
#pragma once

#include "synapses.h"

constexpr int64_t FIRST_CACHE_BYTES = 32768;

// x += sum_e values[units[e]] * row(units[e]), in the order of events.
__attribute__((noinline)) static void add_dense_rows(
    Real* x, const Real* weights, int64_t width, const int32_t* units, int64_t n_events,
    const Real* values
) {
    int64_t e = 0;
    for (; e + 4 <= n_events; e += 4) {
        const Real* w[4];
        Real size[4];
        for (int k = 0; k < 4; ++k) {
            w[k] = weights + units[e + k] * width;
            size[k] = values[units[e + k]];
        }
        int64_t j = 0;
        for (; j + LANES <= width; j += LANES) {
            Vector v = load(x + j);
            for (int k = 0; k < 4; ++k) v = fused(filled<Vector>(size[k]), load(w[k] + j), v);
            store(x + j, v);
        }
        for (; j < width; ++j) {
            for (int k = 0; k < 4; ++k) x[j] = std::fma(size[k], w[k][j], x[j]);
        }
    }
    for (; e < n_events; ++e) {
        const Real* w = weights + units[e] * width;
        const Real size = values[units[e]];
        int64_t j = 0;
        for (; j + LANES <= width; j += LANES) {
            store(x + j, fused(filled<Vector>(size), load(w + j), load(x + j)));
        }
        for (; j < width; ++j) x[j] = std::fma(size, w[j], x[j]);
    }
}

// out[r][b] = sum_j w[r][j] * d[b][j], registers holding all ROWS x TRIALS sums.
template <int ROWS, int TRIALS>
inline void dot_tile(
    const Real* const* w, const Real* d, int64_t stride, int64_t width, Real* out,
    int64_t out_stride
) {
    Vector total[ROWS][TRIALS] = {};
    auto add = [&](auto read, int64_t j) {
        Vector rows[ROWS];
        for (int r = 0; r < ROWS; ++r) rows[r] = read(w[r] + j);
        for (int b = 0; b < TRIALS; ++b) {
            const Vector column = read(d + b * stride + j);
            for (int r = 0; r < ROWS; ++r) total[r][b] = fused(rows[r], column, total[r][b]);
        }
    };
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES) add([](const Real* p) { return load(p); }, j);
    if (j < width) {
        const int rest = (int)(width - j);
        add([rest](const Real* p) { return load_part(p, rest); }, j);
    }
    for (int b = 0; b < TRIALS; ++b) {
        for (int r = 0; r < ROWS; ++r) out[b * out_stride + r] = sum(total[r][b]);
    }
}

// As many sums as there are registers for, with what they are made from.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 8;
#else
constexpr int TILE_ROWS = 4;
#endif
constexpr int TILE_TRIALS = 2;

template <int TRIALS>
inline void dot_rows(
    const Real* const* w, int n_rows, const Real* d, int64_t stride, int64_t width, Real* out
) {
    if (n_rows == TILE_ROWS) {
        dot_tile<TILE_ROWS, TRIALS>(w, d, stride, width, out, TILE_ROWS);
        return;
    }
    for (int r = 0; r < n_rows; ++r) {
        dot_tile<1, TRIALS>(w + r, d, stride, width, out + r, TILE_ROWS);
    }
}

// out[b][i] += sum_j d[b][j] W[i][j] for the wanted units i. All of shape (B, ...).
__attribute__((noinline)) static void add_dense_transposed(
    Real* out, int64_t out_stride, const Real* d, const Real* weights, int64_t width,
    int64_t n_trials, Wanted wanted
) {
    // A tile's rows stay in the first cache level until all trials have met them.
    const int64_t block = n_trials <= TILE_TRIALS
        ? width : FIRST_CACHE_BYTES / (int64_t)sizeof(Real) / TILE_ROWS;
    for (int64_t first = 0; first < width; first += block) {
        const int64_t size = std::min(block, width - first);
        for (int64_t i = 0; i < wanted.count; i += TILE_ROWS) {
            const int n_rows = (int)std::min<int64_t>(TILE_ROWS, wanted.count - i);
            const Real* w[TILE_ROWS];
            for (int r = 0; r < n_rows; ++r) w[r] = weights + wanted[i + r] * width + first;
            for (int64_t b = 0; b < n_trials;) {
                const Real* from = d + b * width + first;
                Real sums[TILE_TRIALS * TILE_ROWS];
                const int n = (int)std::min<int64_t>(TILE_TRIALS, n_trials - b);
                if (n == TILE_TRIALS) {
                    dot_rows<TILE_TRIALS>(w, n_rows, from, width, size, sums);
                } else {
                    dot_rows<1>(w, n_rows, from, width, size, sums);
                }
                for (int c = 0; c < n; ++c) {
                    for (int r = 0; r < n_rows; ++r) {
                        out[(b + c) * out_stride + wanted[i + r]] += sums[c * TILE_ROWS + r];
                    }
                }
                b += n;
            }
        }
    }
}

// How far ahead edges are fetched: what follows in memory is what comes next.
constexpr int64_t FETCH_AHEAD = 512;

inline void fetch_ahead(const Synapses& set, int64_t edge) {
    __builtin_prefetch(set.post + edge + FETCH_AHEAD);
    __builtin_prefetch(set.weights + edge + FETCH_AHEAD);
}

// grad[i][:] (+)= sum over events of unit i of value * d[row][:].
__attribute__((noinline)) static void dense_weights_grad(
    Real* grad, int64_t n_pre, int64_t width, const Real* d, const SortedEvents& events, bool fresh
) {
    for (int64_t i = 0; i < n_pre; ++i) {
        Real* out = grad + i * width;
        const int64_t last = events.offsets[i + 1];
        int64_t e = events.offsets[i];
        if (fresh && e == last) std::memset(out, 0, width * sizeof(Real));
        for (bool empty = fresh; e < last; empty = false) {
            const int n = (int)std::min<int64_t>(4, last - e);
            const Real* rows[4];
            Vector size[4];
            for (int k = 0; k < 4; ++k) {
                rows[k] = d + (int64_t)events.row_of[e + std::min(k, n - 1)] * width;
                size[k] = filled<Vector>(k < n ? events.value_of[e + k] : 0);
            }
            int64_t j = 0;
            for (; j + LANES <= width; j += LANES) {
                Vector v = empty ? Vector{} : load(out + j);
                v = fused(size[0], load(rows[0] + j), v);
                for (int k = 1; k < n; ++k) v = fused(size[k], load(rows[k] + j), v);
                store(out + j, v);
            }
            for (; j < width; ++j) {
                Real v = empty ? 0 : out[j];
                for (int k = 0; k < n; ++k) v = std::fma(size[k][0], rows[k][j], v);
                out[j] = v;
            }
            e += n;
        }
    }
}
