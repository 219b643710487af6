// neurons/currents.py on blocks of units.
#pragma once

#include "neuron.h"

struct Currents : Model {
    enum { MEMBRANE, DECAY, SIGN };
    static constexpr int N_REAL = 2;
    using Model::Model;

    static int width(int variable, const Call& call) {
        return variable == 0 ? 1 : (int)call.n_kinds;
    }

    void integrate(const Place& p, Real* x, const Real* s, Real* excess) const {
        Real* v = call.state[0] + here(p);
        const Real* membrane = of_units(MEMBRANE, p);
        Real free[BLOCK], driven[BLOCK] = {};
        for (int64_t kind = 0; kind < call.n_kinds; ++kind) {
            Real* current = call.state[1] + of_kind(p, kind);
            const Real* arriving = x + call.channels[kind] * n_units;
            const Real decay = call.constants[DECAY][kind], sign = call.constants[SIGN][kind];
            for (int k = 0; k < p.n; ++k) {
                current[k] = decay * current[k] + arriving[k];
                driven[k] += sign * current[k];
            }
        }
        for (int k = 0; k < p.n; ++k) free[k] = membrane[k] * v[k] + driven[k];
        for (int k = 0; k < p.n; ++k) v[k] = free[k] - s[k] * free[k];
        if (call.kept_free) std::copy(free, free + p.n, call.kept_free + kept(p));
        hold(p, s, v, nullptr);
        for (int k = 0; k < p.n; ++k) excess[k] = v[k] - 1;
    }

    void excess(const Place& p, Real* out) const {
        const Real* v = call.kept_state[0] + kept(p);
        for (int k = 0; k < p.n; ++k) out[k] = v[k] - 1;
    }

    void add_excess_grad(const Place& p, const Real* grad) const {
        Real* g = call.grad_state[0] + here(p);
        for (int k = 0; k < p.n; ++k) g[k] += grad[k];
    }

    void transpose(const Place& p, const Real* s, Real* grad_x, Real* grad_spikes) const {
        Real* g = call.grad_state[0] + here(p);
        const Real* membrane = of_units(MEMBRANE, p);
        Real free[BLOCK];
        release(p, g, free);
        if (!call.detach_reset) {
            const Real* moved = call.kept_free + kept(p);
            for (int k = 0; k < p.n; ++k) grad_spikes[k] = -free[k] * moved[k];
        }
        for (int k = 0; k < p.n; ++k) free[k] *= 1 - s[k];
        for (int k = 0; k < p.n; ++k) g[k] = membrane[k] * free[k];
        for (int64_t c = 0; c < call.n_channels; ++c) {
            std::fill(grad_x + c * n_units, grad_x + c * n_units + p.n, (Real)0);
        }
        for (int64_t kind = 0; kind < call.n_kinds; ++kind) {
            Real *current = call.grad_state[1] + of_kind(p, kind),
                 *out = grad_x + call.channels[kind] * n_units;
            const Real decay = call.constants[DECAY][kind], sign = call.constants[SIGN][kind];
            for (int k = 0; k < p.n; ++k) {
                const Real grad = current[k] + sign * free[k];
                out[k] += grad;
                current[k] = decay * grad;
            }
        }
    }
};
