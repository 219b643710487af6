// Products with weights on edges that are sorted by pre, then post.
#pragma once

#include "synapses.h"

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

// out[i] += sum over edges i -> j of d[j] w, for the wanted units i of one trial. Edges that follow
// in memory come next, so they are fetched ahead; few branches depend on how many edges a unit has,
// for those are predicted badly.
__attribute__((noinline)) static void add_sparse_transposed(
    Real* out, const Real* d, const Synapses& set, Wanted wanted
) {
    constexpr int64_t AHEAD = 512;
    const int32_t* post = set.post;
    const Real* w = set.weights;
    const int64_t n_edges = set.offsets[set.n_pre];
    for (int64_t i = 0; i < wanted.count; ++i) {
        const int32_t unit = wanted[i];
        int64_t e = set.offsets[unit];
        const int64_t last = set.offsets[unit + 1];
        Quad total[2] = {};
        for (; e + 8 <= last; e += 8) {
            __builtin_prefetch(post + e + AHEAD);
            __builtin_prefetch(w + e + AHEAD);
            for (int k = 0; k < 2; ++k) {
                const int64_t at = e + 4 * k;
                total[k] = fused(load<Quad>(w + at), gather(d, post + at), total[k]);
            }
        }
        Real rest = 0;
        if (e + 8 <= n_edges) {
            // Read edges of the next unit too, and leave them out.
            const Index left = (Index)(last - e);
            for (int k = 0; k < 2; ++k) {
                const int64_t at = e + 4 * k;
                const IndexQuad number = IndexQuad{0, 1, 2, 3} + (Index)(4 * k);
                const Quad more = fused(load<Quad>(w + at), gather(d, post + at), total[k]);
                total[k] = number < left ? more : total[k];
            }
        } else {
            for (; e < last; ++e) rest = std::fma(w[e], d[post[e]], rest);
        }
        out[unit] += sum_of_four(total[0] + total[1]) + rest;
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

// grad[edge] (+)= sum over events of its unit of value * d[row][post].
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
        for (; edge + 4 <= last; edge += 4) {
            Quad v = fresh ? Quad{} : load<Quad>(grad + edge);
            for (int64_t e = begin; e < end; ++e) {
                const Real* row = d + (int64_t)events.row_of[e] * width;
                v = fused(filled<Quad>(events.value_of[e]), gather(row, set.post + edge), v);
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
