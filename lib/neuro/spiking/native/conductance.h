// neurons/conductance.py on blocks of units.
#pragma once

#include "neuron.h"

struct Conductance : Model {
    enum { LEAK, DT_PER_C, E_LEAK, THRESHOLD, RESET, RISE, DECAY, JUMP, E_REV };
    static constexpr int N_REAL = 3;
    using Model::Model;

    static int width(int variable, const Call& call) {
        return variable == 0 ? 1 : (int)call.n_kinds;
    }

    void integrate(const Place& p, Real* x, const Real* s, Real* excess) const {
        Real* v = call.state[0] + here(p);
        const Real *leak = of_units(LEAK, p), *dt_per_c = of_units(DT_PER_C, p),
                   *e_leak = of_units(E_LEAK, p), *threshold = of_units(THRESHOLD, p),
                   *reset = of_units(RESET, p);
        Real total[BLOCK] = {}, driven[BLOCK] = {}, free[BLOCK];
        for (int64_t kind = 0; kind < call.n_kinds; ++kind) {
            Real *rise = call.state[1] + of_kind(p, kind),
                 *decay = call.state[2] + of_kind(p, kind);
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
