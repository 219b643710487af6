// The neuron models of neuro.spiking.neurons, and their derivatives, on blocks of units.
#pragma once

#include <algorithm>

#include "products.h"

enum { FAST_SIGMOID, ATAN, TRIANGLE };
enum { SUBTRACT, ZERO, HOLD };
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
    Real* state[3];               // (B, N) or (B, kinds N), before the first step, then after the last
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

struct LIF : Model {
    enum { MEMBRANE, GAIN, OFFSET, THRESHOLD, RESET, SYNAPSE, SYNAPSE_GAIN };
    static constexpr int N_REAL = 2;
    using Model::Model;

    static int width(int, const Call&) { return 1; }

    // x is used up. Order of operations as in Python, so that both round alike.
    void integrate(const Place& p, Real* x, const Real* s, Real* excess) const {
        Real* v = call.state[0] + here(p);
        const Real *b = of_units(MEMBRANE, p), *gain = of_units(GAIN, p),
                   *offset = of_units(OFFSET, p), *threshold = of_units(THRESHOLD, p),
                   *reset = of_units(RESET, p), *a = of_units(SYNAPSE, p),
                   *synapse_gain = of_units(SYNAPSE_GAIN, p);
        Real free[BLOCK];
        if (a) {
            Real* current = call.state[1] + here(p);
            if (synapse_gain) {
                for (int k = 0; k < p.n; ++k) x[k] *= synapse_gain[k];
            }
            for (int k = 0; k < p.n; ++k) current[k] = x[k] + a[k] * current[k];
            if (call.silence_current) silence(p, s, current);
            std::copy(current, current + p.n, x);
        }
        if (gain) {
            for (int k = 0; k < p.n; ++k) x[k] *= gain[k];
        }
        if (offset) {
            for (int k = 0; k < p.n; ++k) x[k] += offset[k];
        }
        if (call.reset == SUBTRACT) {
            for (int k = 0; k < p.n; ++k) v[k] = (x[k] + b[k] * v[k]) - s[k] * threshold[k];
        } else if (call.reset == ZERO) {
            for (int k = 0; k < p.n; ++k) v[k] = x[k] + b[k] * between(v[k], reset[k], s[k]);
        } else {
            for (int k = 0; k < p.n; ++k) free[k] = x[k] + b[k] * v[k];
            for (int k = 0; k < p.n; ++k) v[k] = between(free[k], reset[k], s[k]);
            if (call.kept_free) std::copy(free, free + p.n, call.kept_free + kept(p));
        }
        hold(p, s, v, reset);
        for (int k = 0; k < p.n; ++k) excess[k] = v[k] - threshold[k];
    }

    // No current where the count of this step will be above 0.
    void silence(const Place& p, const Real* s, Real* current) const {
        const int32_t *steps = call.refractory + p.first, *count = call.count + here(p);
        for (int k = 0; k < p.n; ++k) {
            const bool silenced = s[k] > 0 ? steps[k] > 0 : count[k] > 1;
            current[k] = silenced ? 0 : current[k];
        }
    }

    void excess(const Place& p, Real* out) const { kept_excess(p, of_units(THRESHOLD, p), out); }

    void add_excess_grad(const Place& p, const Real* grad) const {
        Real* g = call.grad_state[0] + here(p);
        for (int k = 0; k < p.n; ++k) g[k] += grad[k];
    }

    void transpose(const Place& p, const Real* s, Real* grad_x, Real* grad_spikes) const {
        Real* g = call.grad_state[0] + here(p);
        const Real *b = of_units(MEMBRANE, p), *gain = of_units(GAIN, p), *a = of_units(SYNAPSE, p),
                   *synapse_gain = of_units(SYNAPSE_GAIN, p);
        Real free[BLOCK], kept_after[BLOCK];
        release(p, g, free);
        if (!call.detach_reset) jump(p, free, grad_spikes);
        const Real* after = free;
        if (call.reset != SUBTRACT) {
            for (int k = 0; k < p.n; ++k) kept_after[k] = free[k] * (1 - s[k]);
            after = kept_after;
        }
        for (int k = 0; k < p.n; ++k) g[k] = b[k] * after[k];
        const Real* driven = call.reset == HOLD ? after : free;
        std::copy(driven, driven + p.n, grad_x);
        if (gain) {
            for (int k = 0; k < p.n; ++k) grad_x[k] *= gain[k];
        }
        if (a) {
            Real* current = call.grad_state[1] + here(p);
            for (int k = 0; k < p.n; ++k) grad_x[k] += current[k];
            if (call.silence_current) {
                const uint8_t* held = call.kept_held + kept(p);
                for (int k = 0; k < p.n; ++k) grad_x[k] = held[k] & SILENCED ? 0 : grad_x[k];
            }
            for (int k = 0; k < p.n; ++k) current[k] = a[k] * grad_x[k];
        }
        if (synapse_gain) {
            for (int k = 0; k < p.n; ++k) grad_x[k] *= synapse_gain[k];
        }
    }

    // What the reset of a spike does to the potential, as a gradient of that spike.
    void jump(const Place& p, const Real* free, Real* grad_spikes) const {
        const Real *b = of_units(MEMBRANE, p), *threshold = of_units(THRESHOLD, p),
                   *reset = of_units(RESET, p);
        if (call.reset == SUBTRACT) {
            for (int k = 0; k < p.n; ++k) grad_spikes[k] = free[k] * -threshold[k];
        } else if (call.reset == ZERO) {
            const Real* v = potential_before(p);
            for (int k = 0; k < p.n; ++k) grad_spikes[k] = free[k] * (b[k] * (reset[k] - v[k]));
        } else {
            const Real* moved = call.kept_free + kept(p);
            for (int k = 0; k < p.n; ++k) grad_spikes[k] = free[k] * (reset[k] - moved[k]);
        }
    }
};

struct Adaptive : Model {
    enum { MEMBRANE, ADAPTATION, STRENGTH, THRESHOLD };
    static constexpr int N_REAL = 2;
    using Model::Model;

    static int width(int, const Call&) { return 1; }

    void integrate(const Place& p, Real* x, const Real* s, Real* excess) const {
        Real *v = call.state[0] + here(p), *adaptation = call.state[1] + here(p);
        const Real *alpha = of_units(MEMBRANE, p), *rho = of_units(ADAPTATION, p),
                   *strength = of_units(STRENGTH, p), *threshold = of_units(THRESHOLD, p);
        for (int k = 0; k < p.n; ++k) v[k] = (x[k] + alpha[k] * v[k]) - threshold[k] * s[k];
        for (int k = 0; k < p.n; ++k) adaptation[k] = s[k] + rho[k] * adaptation[k];
        hold(p, s, v, nullptr);
        for (int k = 0; k < p.n; ++k) {
            excess[k] = (v[k] - threshold[k]) - strength[k] * adaptation[k];
        }
        if (call.kept_total) std::copy(excess, excess + p.n, call.kept_total + kept(p));
    }

    void excess(const Place& p, Real* out) const {
        const Real* from = call.kept_total + kept(p);
        std::copy(from, from + p.n, out);
    }

    void add_excess_grad(const Place& p, const Real* grad) const {
        Real *g = call.grad_state[0] + here(p), *slow = call.grad_state[1] + here(p);
        const Real* strength = of_units(STRENGTH, p);
        for (int k = 0; k < p.n; ++k) g[k] += grad[k];
        for (int k = 0; k < p.n; ++k) slow[k] -= strength[k] * grad[k];
    }

    void transpose(const Place& p, const Real*, Real* grad_x, Real* grad_spikes) const {
        Real *g = call.grad_state[0] + here(p), *slow = call.grad_state[1] + here(p);
        const Real *alpha = of_units(MEMBRANE, p), *rho = of_units(ADAPTATION, p),
                   *threshold = of_units(THRESHOLD, p);
        release(p, g, grad_x);
        for (int k = 0; k < p.n; ++k) g[k] = alpha[k] * grad_x[k];
        std::copy(slow, slow + p.n, grad_spikes);
        if (!call.detach_reset) {
            for (int k = 0; k < p.n; ++k) grad_spikes[k] -= threshold[k] * grad_x[k];
        }
        for (int k = 0; k < p.n; ++k) slow[k] *= rho[k];
    }
};

struct Conductance : Model {
    enum { LEAK, DT_PER_C, E_LEAK, THRESHOLD, RESET, RISE, DECAY, JUMP, E_REV };
    static constexpr int N_REAL = 3;
    using Model::Model;

    static int width(int variable, const Call& call) {
        return variable == 0 ? 1 : (int)call.n_kinds;
    }

    int64_t of_kind(const Place& p, int64_t kind) const {
        return (p.trial * call.n_kinds + kind) * n_units + p.first;
    }

    void integrate(const Place& p, Real* x, const Real* s, Real* excess) const {
        Real* v = call.state[0] + here(p);
        const Real *leak = of_units(LEAK, p), *dt_per_c = of_units(DT_PER_C, p),
                   *e_leak = of_units(E_LEAK, p), *threshold = of_units(THRESHOLD, p),
                   *reset = of_units(RESET, p);
        Real total[BLOCK] = {}, driven[BLOCK] = {}, free[BLOCK];
        for (int64_t kind = 0; kind < call.n_kinds; ++kind) {
            Real *rise = call.state[1] + of_kind(p, kind), *decay = call.state[2] + of_kind(p, kind);
            const Real* arriving = x + call.channels[kind] * n_units;
            const Real e_rev = call.constants[E_REV][kind], jump = call.constants[JUMP][kind],
                       rises = call.constants[RISE][kind], decays = call.constants[DECAY][kind];
            for (int k = 0; k < p.n; ++k) {
                const Real g = rise[k] + decay[k], more = jump * arriving[k];
                total[k] += g;
                driven[k] += g * e_rev;
                rise[k] = rises * rise[k] - more;
                decay[k] = decays * decay[k] + more;
            }
        }
        for (int k = 0; k < p.n; ++k) {
            const Real current = total[k] * v[k] - driven[k];
            free[k] = (v[k] + leak[k] * (e_leak[k] - v[k])) - dt_per_c[k] * current;
        }
        for (int k = 0; k < p.n; ++k) v[k] = between(free[k], reset[k], s[k]);
        if (call.kept_total) std::copy(total, total + p.n, call.kept_total + kept(p));
        if (call.kept_free) std::copy(free, free + p.n, call.kept_free + kept(p));
        hold(p, s, v, reset);
        for (int k = 0; k < p.n; ++k) excess[k] = v[k] - threshold[k];
    }

    void excess(const Place& p, Real* out) const { kept_excess(p, of_units(THRESHOLD, p), out); }

    void add_excess_grad(const Place& p, const Real* grad) const {
        Real* g = call.grad_state[0] + here(p);
        for (int k = 0; k < p.n; ++k) g[k] += grad[k];
    }

    void transpose(const Place& p, const Real* s, Real* grad_x, Real* grad_spikes) const {
        Real* g = call.grad_state[0] + here(p);
        const Real *v = potential_before(p), *total = call.kept_total + kept(p),
                   *leak = of_units(LEAK, p), *dt_per_c = of_units(DT_PER_C, p);
        Real free[BLOCK], per_c[BLOCK];
        release(p, g, free);
        if (!call.detach_reset) {
            const Real *reset = of_units(RESET, p), *moved = call.kept_free + kept(p);
            for (int k = 0; k < p.n; ++k) grad_spikes[k] = free[k] * (reset[k] - moved[k]);
        }
        for (int k = 0; k < p.n; ++k) free[k] *= 1 - s[k];
        for (int k = 0; k < p.n; ++k) g[k] = free[k] * (1 - leak[k] - dt_per_c[k] * total[k]);
        for (int k = 0; k < p.n; ++k) per_c[k] = free[k] * -dt_per_c[k];
        for (int64_t c = 0; c < call.n_channels; ++c) {
            std::fill(grad_x + c * n_units, grad_x + c * n_units + p.n, (Real)0);
        }
        for (int64_t kind = 0; kind < call.n_kinds; ++kind) {
            Real *rise = call.grad_state[1] + of_kind(p, kind),
                 *decay = call.grad_state[2] + of_kind(p, kind);
            Real* out = grad_x + call.channels[kind] * n_units;
            const Real e_rev = call.constants[E_REV][kind], jump = call.constants[JUMP][kind],
                       rises = call.constants[RISE][kind], decays = call.constants[DECAY][kind];
            for (int k = 0; k < p.n; ++k) {
                const Real grad_g = per_c[k] * (v[k] - e_rev);
                out[k] += jump * (decay[k] - rise[k]);
                rise[k] = rises * rise[k] + grad_g;
                decay[k] = decays * decay[k] + grad_g;
            }
        }
    }
};
