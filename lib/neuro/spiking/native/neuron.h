// What a call of the compiled code gets, and what its neuron models share.
#pragma once

#include "synapses.h"

enum { FAST_SIGMOID, ATAN, TRIANGLE };
enum { HELD = 1, SILENCED = 2 };

// What event.py hands over; the same fields in the same order as its class Call.
struct Call {
    int64_t n_steps, first, last;  // T, and the steps that this call takes
    int64_t n_trials, n_units, n_channels, depth, n_sets;
    int64_t model, surrogate, smooth, replay;
    int64_t reset, detach_reset, silence_current, n_kinds;
    double surrogate_parameter;
    const int64_t* channels;  // of each kind of synapse
    const Synapses* sets;
    const Real *history, *drive;  // (D, B, N); (T, B, C N) or null
    Real* spikes;                 // (T, B, N)
    const Real* constants[9];     // (N,) or (kinds,); null for what does nothing
    const int32_t* refractory;    // (N,)
    Real* state[3];               // (B, N) or (B, kinds N): before the steps, then after them
    int32_t* count;               // (B, N)
    // What is kept of each step of this call: (steps, B, ...), null where nobody asks.
    Real* kept_state[3];
    int32_t* kept_countdown;
    Real *kept_x, *kept_free, *kept_total;
    uint8_t* kept_held;
    // Of the backward pass.
    const Real* start_potential;               // (B, N), before the first step
    const Real *grad_spikes, *grad_potential;  // (T, B, N) or null
    Real* grad_state[3];
    Real* carry;          // (B, N): gradient that the next step's reset sends to this step's spikes
    Real* grad_x;         // (ring_steps, B, C N): step t in slot t % ring_steps
    Real* grad_x_by_unit; // the same as (ring_steps, C N, trials, padded); null where not needed
    int64_t ring_steps, chunk_steps, padded_trials;
    Real* kept_grad_state[3];
    Real* kept_grad_excess;
    // Gradients of the first constants, (N,), null where not wanted or not summed here: of the step at
    // hand, and of all steps, which are too many to add up in single precision.
    Real* constants_part[3];
    double* constants_total[3];

    // Spikes of a trial in step t, which may lie before the first.
    const Real* row(int64_t t, int64_t trial) const {
        const Real* from = t < 0 ? history + (depth + t) * n_trials * n_units
                                 : spikes + t * n_trials * n_units;
        return from + trial * n_units;
    }

    int64_t wide() const { return n_channels * n_units; }
};

// Units first .. first + n - 1 of a trial in a step, `index` steps after the call's first.
struct Place {
    int64_t index, trial, first;
    int n;
};

constexpr int BLOCK = 512;

// As torch.lerp, exact at both ends.
inline Real between(Real start, Real end, Real weight) {
    const Real way = end - start;
    return weight < (Real)0.5 ? start + weight * way : end - way * (1 - weight);
}

struct Surrogate {
    int64_t kind;
    Real parameter;

    explicit Surrogate(const Call& call)
        : kind(call.surrogate), parameter((Real)call.surrogate_parameter) {}

    void derivative(const Real* u, Real* out, int n) const {
        const Real p = parameter;
        if (kind == FAST_SIGMOID) {
            for (int k = 0; k < n; ++k) {
                const Real r = 1 / (1 + p * std::fabs(u[k]));
                out[k] = r * r;
            }
        } else if (kind == ATAN) {
            const Real half = p / 2, slope = (Real)(M_PI / 2 * p);
            for (int k = 0; k < n; ++k) {
                const Real z = slope * u[k];
                out[k] = half / (1 + z * z);
            }
        } else {
            for (int k = 0; k < n; ++k) {
                const Real z = 1 - std::fabs(u[k]) / p;
                out[k] = (z < 0 ? 0 : z) / p;
            }
        }
    }

    Real primitive(Real u) const {
        const Real p = parameter;
        if (kind == FAST_SIGMOID) return u / (1 + p * std::fabs(u));
        if (kind == ATAN) return std::atan((Real)(M_PI / 2) * p * u) / (Real)M_PI + (Real)0.5;
        const Real z = std::min<Real>(1, std::max<Real>(-1, u / p));
        return (Real)0.5 + z - z * std::fabs(z) / 2;
    }
};

// What all models share: where a place lies in the arrays, and the refractory count.
struct Model {
    const Call& call;
    int64_t n_units, n_trials;

    explicit Model(const Call& c) : call(c), n_units(c.n_units), n_trials(c.n_trials) {}

    int64_t here(const Place& p) const { return p.trial * n_units + p.first; }
    int64_t kept(const Place& p) const { return p.index * n_trials * n_units + here(p); }
    int64_t of_kind(const Place& p, int64_t kind) const {
        return (p.trial * call.n_kinds + kind) * n_units + p.first;
    }
    const Real* of_units(int which, const Place& p) const {
        return call.constants[which] ? call.constants[which] + p.first : nullptr;
    }

    // Keep v at reset while the count is above 1; note who was held.
    void hold(const Place& p, const Real* spikes, Real* v, const Real* reset) const {
        if (!call.count) return;
        const int32_t* steps = call.refractory + p.first;
        int32_t* count = call.count + here(p);
        for (int k = 0; k < p.n; ++k) {
            const int32_t less = count[k] > 0 ? count[k] - 1 : 0;
            count[k] = spikes[k] > 0 ? steps[k] : less;
        }
        if (reset) {
            for (int k = 0; k < p.n; ++k) v[k] = count[k] > 1 ? reset[k] : v[k];
        } else {
            for (int k = 0; k < p.n; ++k) v[k] = count[k] > 1 ? 0 : v[k];
        }
        if (call.kept_held) {
            uint8_t* held = call.kept_held + kept(p);
            for (int k = 0; k < p.n; ++k) {
                held[k] = (uint8_t)((count[k] > 1 ? HELD : 0) | (count[k] > 0 ? SILENCED : 0));
            }
        }
    }

    // The gradient that reaches v before it was held.
    void release(const Place& p, const Real* grad, Real* out) const {
        std::copy(grad, grad + p.n, out);
        if (!call.kept_held) return;
        const uint8_t* held = call.kept_held + kept(p);
        for (int k = 0; k < p.n; ++k) out[k] = held[k] & HELD ? 0 : out[k];
    }

    // Potentials before the step.
    const Real* potential_before(const Place& p) const {
        return p.index == 0 ? call.start_potential + here(p)
                            : call.kept_state[0] + kept(p) - n_trials * n_units;
    }

    // Potential minus threshold, from what was kept.
    void kept_excess(const Place& p, const Real* threshold, Real* out) const {
        const Real* v = call.kept_state[0] + kept(p);
        for (int k = 0; k < p.n; ++k) out[k] = v[k] - threshold[k];
    }
};
