// Steps through a sequence; only the synapses of units that spike are visited.
#pragma once

#include "dense.h"
#include "neuron.h"
#include "sparse.h"

using Places = std::vector<int32_t>;

// Who spiked, for the steps that a delay can reach back to: spikes of step t lie in slot t % size.
struct RecentSpikes {
    const Call& call;
    int64_t size;
    std::vector<Places> units;

    explicit RecentSpikes(const Call& c)
        : call(c), size(c.depth + 1), units(size * c.n_trials) {}

    Places& at(int64_t t, int64_t trial) {
        return units[((t + size) % size) * call.n_trials + trial];
    }

    void find(int64_t t, int64_t trial) {
        Places& found = at(t, trial);
        found.resize(call.n_units);
        found.resize(find_nonzero(call.row(t, trial), call.n_units, found.data()));
    }
};

inline void propagate(
    Real* x, const Synapses& set, int64_t width, const Real* spikes, const int32_t* units, int64_t n
) {
    if (set.is_sparse) {
        add_sparse_rows(x, set, units, n, spikes);
    } else {
        add_dense_rows(x, set.weights, width, units, n, spikes);
    }
}

// What arrives at a trial in step t.
inline void arriving(
    const Call& call, RecentSpikes& recent, int64_t t, int64_t trial, Places& found, Real* x
) {
    const int64_t wide = call.wide();
    if (call.drive) {
        std::memcpy(x, call.drive + (t * call.n_trials + trial) * wide, wide * sizeof(Real));
    } else {
        std::memset(x, 0, wide * sizeof(Real));
    }
    for (int pass = 0; pass < 2; ++pass) {
        for (int64_t k = 0; k < call.n_sets; ++k) {
            const Synapses& set = call.sets[k];
            if (set.is_outside && pass == 0) {
                const Real* spikes = set.source + (t * call.n_trials + trial) * set.n_pre;
                found.resize(set.n_pre);
                const int64_t n = find_nonzero(spikes, set.n_pre, found.data());
                propagate(x, set, wide, spikes, found.data(), n);
            } else if (!set.is_outside && pass == 1) {
                const Places& units = recent.at(t - set.delay, trial);
                const Real* spikes = call.row(t - set.delay, trial);
                propagate(x, set, wide, spikes, units.data(), (int64_t)units.size());
            }
        }
    }
}

inline void write_spikes(
    const Surrogate& surrogate, bool smooth, const Real* excess, Real* out, int n
) {
    if (smooth) {
        for (int k = 0; k < n; ++k) out[k] = surrogate.primitive(excess[k]);
    } else {
        for (int k = 0; k < n; ++k) out[k] = excess[k] > 0 ? 1 : 0;
    }
}

template <typename M>
void keep_state(const Call& call, const Place& p) {
    for (int variable = 0; variable < M::N_REAL; ++variable) {
        if (!call.kept_state[variable] || !call.state[variable]) continue;
        const int64_t size = M::width(variable, call) * call.n_units;
        const Real* from = call.state[variable] + p.trial * size;
        const int64_t at = (p.index * call.n_trials + p.trial) * size;
        std::copy(from, from + size, call.kept_state[variable] + at);
    }
    if (call.kept_countdown) {
        const int32_t* from = call.count + p.trial * call.n_units;
        const int64_t at = (p.index * call.n_trials + p.trial) * call.n_units;
        std::copy(from, from + call.n_units, call.kept_countdown + at);
    }
}

template <typename M>
void forward(const Call& call) {
    const M model(call);
    const Surrogate surrogate(call);
    RecentSpikes recent(call);
    std::vector<Real> x(call.wide());
    Places found;
    Real excess[BLOCK];
    for (int64_t t = call.first - call.depth; t < call.first; ++t) {
        for (int64_t trial = 0; trial < call.n_trials; ++trial) recent.find(t, trial);
    }
    for (int64_t t = call.first; t < call.last; ++t) {
        for (int64_t trial = 0; trial < call.n_trials; ++trial) {
            arriving(call, recent, t, trial, found, x.data());
            Place p{t - call.first, trial, 0, 0};
            if (call.kept_x) {
                Real* out = call.kept_x + (p.index * call.n_trials + trial) * call.wide();
                std::copy(x.begin(), x.end(), out);
            }
            const Real* before = call.row(t - 1, trial);
            Real* spikes = call.spikes + (t * call.n_trials + trial) * call.n_units;
            for (; p.first < call.n_units; p.first += BLOCK) {
                p.n = (int)std::min<int64_t>(BLOCK, call.n_units - p.first);
                model.integrate(p, x.data() + p.first, before + p.first, excess);
                if (call.replay) continue;
                write_spikes(surrogate, call.smooth, excess, spikes + p.first, p.n);
            }
            keep_state<M>(call, p);
            recent.find(t, trial);
        }
    }
}
