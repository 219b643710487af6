// Products of spikes, weights and gradients. Weights are dense [pre, post], or on edges sorted by pre.
#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

constexpr int64_t FIRST_CACHE_BYTES = 32768;

// One set of synapses, as event.py fills it.
struct Synapses {
    const Real* weights;
    const int32_t* post;     // of each edge
    const int64_t* offsets;  // edges of unit i: offsets[i] .. offsets[i + 1] - 1
    const Real* source;      // (T, B, n_pre)
    Real* weights_grad;      // null where not wanted
    Real* source_grad;       // (T, B, n_pre), null where not wanted
    int64_t n_pre, delay;
    // Said apart from the pointers: those of arrays without entries are null too.
    int64_t is_sparse, is_outside;
};

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

inline void prefetch_row(const Synapses& set, int32_t unit) {
    const int64_t first = set.offsets[unit], last = set.offsets[unit + 1];
    for (int64_t e = first; e < std::min(last, first + 128); e += 16) {
        __builtin_prefetch(set.post + e);
        __builtin_prefetch(set.weights + e);
    }
}

// The edges of a unit reach distinct places, so several can be read before they are written.
__attribute__((noinline)) static void add_sparse_rows(
    Real* x, const Synapses& set, const int32_t* units, int64_t n_events, const Real* values
) {
    constexpr int AHEAD = 8, TOGETHER = 8;
    for (int64_t i = 0; i < n_events; ++i) {
        if (i + AHEAD < n_events) prefetch_row(set, units[i + AHEAD]);
        const Real size = values[units[i]];
        const int64_t last = set.offsets[units[i] + 1];
        int64_t e = set.offsets[units[i]];
        for (; e + TOGETHER <= last; e += TOGETHER) {
            const int32_t* post = set.post + e;
            const Real* w = set.weights + e;
            Real sums[TOGETHER];
            for (int k = 0; k < TOGETHER; ++k) sums[k] = x[post[k]] + size * w[k];
            for (int k = 0; k < TOGETHER; ++k) x[post[k]] = sums[k];
        }
        for (; e < last; ++e) x[set.post[e]] += size * set.weights[e];
    }
}

// out[r][b] = sum_j w[r][j] * d[b][j], registers holding all ROWS x TRIALS sums.
template <int ROWS, int TRIALS>
inline void dot_tile(
    const Real* const* w, const Real* d, int64_t stride, int64_t width, Real* out, int64_t out_stride
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
#if defined(__AVX512DQ__)
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
    for (int r = 0; r < n_rows; ++r) dot_tile<1, TRIALS>(w + r, d, stride, width, out + r, TILE_ROWS);
}

// The units that a product with the transposed weights is wanted for: all, or a list.
struct Wanted {
    const int32_t* units;  // null for all
    int64_t count;

    int32_t operator[](int64_t i) const { return units ? units[i] : (int32_t)i; }
};

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

// The same on edges, for one trial.
template <bool NEAR>
__attribute__((noinline)) static void add_sparse_transposed(
    Real* out, const Real* d, const Synapses& set, Wanted wanted
) {
    for (int64_t i = 0; i < wanted.count; ++i) {
        const int32_t unit = wanted[i];
        int64_t e = set.offsets[unit];
        const int64_t last = set.offsets[unit + 1];
        Vector total = {};
        for (; e + LANES <= last; e += LANES) {
            fetch_ahead(set, e);
            total = fused(load(set.weights + e), gather<NEAR>(d, set.post + e), total);
        }
        if (e < last) {
            const int rest = (int)(last - e);
            fetch_ahead(set, e);
            const Vector values = gather_part(d, set.post + e, rest);
            total = fused(load_part(set.weights + e, rest), values, total);
        }
        out[unit] += sum(total);
    }
}

// The same on edges, for as many trials as V has lanes; d[j] and out[b] hold them side by side.
template <typename V>
inline void add_sparse_transposed_trials(
    Real* out, int64_t out_stride, int n_trials, const Real* d, int64_t d_stride,
    const Synapses& set, Wanted wanted
) {
    for (int64_t i = 0; i < wanted.count; ++i) {
        const int32_t unit = wanted[i];
        int64_t e = set.offsets[unit];
        const int64_t last = set.offsets[unit + 1];
        V total[4] = {};
        for (; e + 4 <= last; e += 4) {
            for (int k = 0; k < 4; ++k) {
                const V w = filled<V>(set.weights[e + k]);
                total[k] = fused(w, load<V>(d + set.post[e + k] * d_stride), total[k]);
            }
        }
        for (; e < last; ++e) {
            const V w = filled<V>(set.weights[e]);
            total[0] = fused(w, load<V>(d + set.post[e] * d_stride), total[0]);
        }
        const V all = (total[0] + total[1]) + (total[2] + total[3]);
        for (int b = 0; b < n_trials; ++b) out[b * out_stride + unit] += all[b];
    }
}

// Spikes of several steps and trials, sorted by unit; `row` says which row of gradients they meet.
struct SortedEvents {
    std::vector<int64_t> offsets;
    std::vector<int32_t> units, rows, row_of;
    std::vector<Real> values, value_of;

    void clear() { units.clear(), rows.clear(), values.clear(); }

    void add(const Real* spikes, int64_t n_pre, int32_t row, std::vector<int32_t>& places) {
        places.resize(n_pre);
        const int64_t n = find_nonzero(spikes, n_pre, places.data());
        for (int64_t e = 0; e < n; ++e) {
            units.push_back(places[e]);
            rows.push_back(row);
            values.push_back(spikes[places[e]]);
        }
    }

    void sort(int64_t n_pre) {
        offsets.assign(n_pre + 1, 0);
        row_of.resize(units.size()), value_of.resize(units.size());
        for (int32_t unit : units) ++offsets[unit + 1];
        for (int64_t i = 0; i < n_pre; ++i) offsets[i + 1] += offsets[i];
        for (size_t e = units.size(); e-- > 0;) {
            const int64_t at = --offsets[units[e] + 1];
            row_of[at] = rows[e], value_of[at] = values[e];
        }
        // Each count has become the start of its unit; the next entry is the start of the next.
        for (int64_t i = 0; i < n_pre; ++i) offsets[i] = offsets[i + 1];
        offsets[n_pre] = (int64_t)units.size();
    }
};

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

__attribute__((noinline)) static void sparse_weights_grad(
    const Synapses& set, int64_t width, const Real* d, const SortedEvents& events, bool fresh
) {
    Real* grad = set.weights_grad;
    for (int64_t i = 0; i < set.n_pre; ++i) {
        const int64_t begin = events.offsets[i], end = events.offsets[i + 1];
        int64_t edge = set.offsets[i];
        const int64_t last = set.offsets[i + 1];
        if (begin == end) {
            if (fresh) std::memset(grad + edge, 0, (last - edge) * sizeof(Real));
            continue;
        }
        for (; edge + LANES <= last; edge += LANES) {
            Vector v = fresh ? Vector{} : load(grad + edge);
            for (int64_t e = begin; e < end; ++e) {
                const Real* row = d + (int64_t)events.row_of[e] * width;
                v = fused(filled<Vector>(events.value_of[e]), gather<false>(row, set.post + edge), v);
            }
            store(grad + edge, v);
        }
        for (; edge < last; ++edge) {
            Real v = fresh ? 0 : grad[edge];
            for (int64_t e = begin; e < end; ++e) {
                const Real* row = d + (int64_t)events.row_of[e] * width;
                v = std::fma(events.value_of[e], row[set.post[edge]], v);
            }
            grad[edge] = v;
        }
    }
}
