// Walks a sequence in reverse: the gradient of the inputs x goes back through the weights to spikes
// (a product with all weights, but only for units whose surrogate derivative is not zero), and to
// the weights of units that spiked.
#pragma once

#include "dense.h"
#include "neuron.h"
#include "sparse.h"

// Walks the steps of a call in reverse.
template <typename M>
struct Backward {
    const Call& call;
    M model;
    Surrogate surrogate;
    int64_t wide, row, out_row;     // C N; B C N; B N
    std::vector<Real> derivative, grad;  // of the spikes of the step at hand, (B, N)
    std::vector<Real> passing;           // by unit, the sum of trials
    std::vector<int32_t> active, places;
    SortedEvents events;
    bool trial_by_trial;

    explicit Backward(const Call& c)
        : call(c), model(c), surrogate(c), wide(c.wide()), row(c.n_trials * wide),
          out_row(c.n_trials * c.n_units), derivative(out_row), grad(out_row),
          passing(c.n_units), active(c.n_units), trial_by_trial(c.n_trials == 1) {}

    Real* grad_x(int64_t t) const { return call.grad_x + t % call.ring_steps * row; }
    Real* grad_x_by_unit(int64_t t) const {
        return call.grad_x_by_unit + t % call.ring_steps * wide * call.padded_trials;
    }

    template <typename Do>
    void blocks(int64_t t, Do&& work) const {
        for (int64_t trial = 0; trial < call.n_trials; ++trial) {
            Place p{t - call.first, trial, 0, 0};
            for (; p.first < call.n_units; p.first += BLOCK) {
                p.n = (int)std::min<int64_t>(BLOCK, call.n_units - p.first);
                work(p, trial * call.n_units + p.first);
            }
        }
    }

    void run() {
        for (int64_t end = call.last; end > call.first; end -= call.chunk_steps) {
            const int64_t begin = std::max(call.first, end - call.chunk_steps);
            for (int64_t t = end; t-- > begin;) step(t);
            for (int64_t k = 0; k < call.n_sets; ++k) {
                if (call.sets[k].weights_grad) weights_grad(call.sets[k], begin, end);
            }
        }
    }

    void total_constants() const {
        for (int which = 0; which < 3; ++which) {
            Real* part = call.constants_part[which];
            if (!part) continue;
            double* total = call.constants_total[which];
            for (int64_t i = 0; i < call.n_units; ++i) total[i] += part[i];
            std::fill(part, part + call.n_units, (Real)0);
        }
    }

    void step(int64_t t) {
        Real excess[BLOCK];
        blocks(t, [&](const Place& p, int64_t at) {
            model.excess(p, excess);
            surrogate.derivative(excess, derivative.data() + at, p.n);
        });
        gather_spikes_grad(t);
        blocks(t, [&](const Place& p, int64_t at) { neurons(t, p, at); });
        total_constants();
        if (call.grad_x_by_unit) arrange_by_unit(t);
        for (int64_t k = 0; k < call.n_sets; ++k) {
            const Synapses& set = call.sets[k];
            if (!set.source_grad) continue;
            Real* out = set.source_grad + t * call.n_trials * set.n_pre;
            std::memset(out, 0, call.n_trials * set.n_pre * sizeof(Real));
            back_propagate(out, set, t, Wanted{nullptr, set.n_pre});
        }
    }

    // grad = gradient of the spikes of step t: the loss, the reset, and synapses of later steps.
    void gather_spikes_grad(int64_t t) {
        std::copy(call.carry, call.carry + out_row, grad.begin());
        if (call.grad_spikes) {
            const Real* more = call.grad_spikes + t * out_row;
            for (int64_t i = 0; i < out_row; ++i) grad[i] += more[i];
        }
        const Wanted wanted = who_passes();
        for (int64_t k = 0; k < call.n_sets; ++k) {
            const Synapses& set = call.sets[k];
            if (set.is_outside || t + set.delay >= call.n_steps) continue;
            back_propagate(grad.data(), set, t + set.delay, wanted);
        }
    }

    // Units whose spikes pass a gradient on; all where the derivative is never zero.
    Wanted who_passes() {
        if (surrogate.kind != TRIANGLE) return {nullptr, call.n_units};
        // No derivative is negative, so a sum is zero only where all are.
        std::copy(derivative.begin(), derivative.begin() + call.n_units, passing.begin());
        for (int64_t b = 1; b < call.n_trials; ++b) {
            const Real* more = derivative.data() + b * call.n_units;
            for (int64_t i = 0; i < call.n_units; ++i) passing[i] += more[i];
        }
        return {active.data(), find_nonzero(passing.data(), call.n_units, active.data())};
    }

    // out (B, n_pre) += gradient of x in step t, times the transposed weights.
    void back_propagate(Real* out, const Synapses& set, int64_t t, Wanted wanted) const {
        if (!set.is_sparse) {
            add_dense_transposed(
                out, set.n_pre, grad_x(t), set.weights, wide, call.n_trials, wanted);
            return;
        }
        if (trial_by_trial) {
            add_sparse_transposed(out, grad_x(t), set, wanted);
            return;
        }
        const int64_t padded = call.padded_trials;
        const Real* from = grad_x_by_unit(t);
        if (padded < LANES) {
            add_sparse_transposed_trials<HalfVector>(
                out, set.n_pre, (int)call.n_trials, from, padded, set, wanted);
            return;
        }
        for (int64_t b = 0; b < call.n_trials; b += LANES) {
            const int n = (int)std::min<int64_t>(LANES, call.n_trials - b);
            add_sparse_transposed_trials<Vector>(
                out + b * set.n_pre, set.n_pre, n, from + b, padded, set, wanted);
        }
    }

    void neurons(int64_t t, const Place& p, int64_t at) const {
        Real grad_excess[BLOCK];
        for (int k = 0; k < p.n; ++k) grad_excess[k] = grad[at + k] * derivative[at + k];
        if (call.grad_potential) {
            const Real* more = call.grad_potential + t * out_row + at;
            Real* g = call.grad_state[0] + at;
            for (int k = 0; k < p.n; ++k) g[k] += more[k];
        }
        model.add_excess_grad(p, grad_excess);
        if (call.kept_grad_excess) {
            std::copy(grad_excess, grad_excess + p.n, call.kept_grad_excess + model.kept(p));
            keep_grad_state(p);
        }
        Real* out = grad_x(t) + p.trial * wide + p.first;
        const Real* spikes = call.row(t - 1, p.trial) + p.first;
        model.transpose(p, spikes, out, call.carry + at);
    }

    void keep_grad_state(const Place& p) const {
        for (int variable = 0; variable < M::N_REAL; ++variable) {
            if (!call.grad_state[variable]) continue;
            const int64_t width = M::width(variable, call);
            for (int64_t w = 0; w < width; ++w) {
                const int64_t at = (p.trial * width + w) * call.n_units + p.first;
                const Real* from = call.grad_state[variable] + at;
                const int64_t to = p.index * call.n_trials * width * call.n_units + at;
                std::copy(from, from + p.n, call.kept_grad_state[variable] + to);
            }
        }
    }

    void arrange_by_unit(int64_t t) const {
        const Real* from = grad_x(t);
        Real* to = grad_x_by_unit(t);
        const int64_t padded = call.padded_trials;
        for (int64_t j = 0; j < wide; ++j) {
            for (int64_t b = 0; b < call.n_trials; ++b) to[j * padded + b] = from[b * wide + j];
        }
    }

    void weights_grad(const Synapses& set, int64_t begin, int64_t end) {
        events.clear();
        for (int64_t t = begin; t < end; ++t) {
            for (int64_t trial = 0; trial < call.n_trials; ++trial) {
                const Real* spikes =
                    set.is_outside ? set.source + (t * call.n_trials + trial) * set.n_pre
                               : call.row(t - set.delay, trial);
                const int64_t at = t % call.ring_steps * call.n_trials + trial;
                events.add(spikes, set.n_pre, (int32_t)at, places);
            }
        }
        events.sort(set.n_pre);
        const bool fresh = end == call.n_steps;
        if (set.is_sparse) {
            sparse_weights_grad(set, wide, call.grad_x, events, fresh);
        } else {
            dense_weights_grad(set.weights_grad, set.n_pre, wide, call.grad_x, events, fresh);
        }
    }
};
