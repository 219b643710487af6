// Synapses as event.py hands them over, and the events that run along them.
#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

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

// The units that a product with the transposed weights is wanted for: all, or a list.
struct Wanted {
    const int32_t* units;  // null for all
    int64_t count;

    int32_t operator[](int64_t i) const { return units ? units[i] : (int32_t)i; }
};

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
