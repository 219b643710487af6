// neurons/lif.py on blocks of units.
#pragma once

#include "neuron.h"

enum { SUBTRACT, ZERO, HOLD };

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
        const Real* driven = call.reset == HOLD ? after : free;
        add_constants_grad(p, s, free, after, driven);
        for (int k = 0; k < p.n; ++k) g[k] = b[k] * after[k];
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

    // Of b, k and the offset in V[t] = b V*[t-1] + k I[t] + offset.
    void add_constants_grad(
        const Place& p, const Real* s, const Real* free, const Real* after, const Real* driven
    ) const {
        if (Real* grad = part(MEMBRANE, p)) {
            const Real *v = potential_before(p), *reset = of_units(RESET, p);
            if (call.reset == ZERO) {
                for (int k = 0; k < p.n; ++k) grad[k] += free[k] * between(v[k], reset[k], s[k]);
            } else {
                for (int k = 0; k < p.n; ++k) grad[k] += after[k] * v[k];
            }
        }
        if (Real* grad = part(GAIN, p)) {
            const Real* current = (call.kept_state[1] ? call.kept_state[1] : call.kept_x) + kept(p);
            for (int k = 0; k < p.n; ++k) grad[k] += driven[k] * current[k];
        }
        if (Real* grad = part(OFFSET, p)) {
            for (int k = 0; k < p.n; ++k) grad[k] += driven[k];
        }
    }

    Real* part(int which, const Place& p) const {
        return call.constants_part[which] ? call.constants_part[which] + p.first : nullptr;
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
