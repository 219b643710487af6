// neurons/adaptive.py on blocks of units.
#pragma once

#include "neuron.h"

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
