// Forward simulation of the current-based neurons of neuro.spiking.whole_brain, for one thread.
//
// No spike acts within its own delay of W steps. So W steps are taken at once for a block of
// neurons that fits into a core's own cache, then for the next block; what the spikes of these
// steps will add is sorted by block afterwards and used in the next W steps.
//
// A block holds its neurons in slots. A dense block has a slot for every neuron; a sparse one only
// for those that are not at rest. Both do the same arithmetic in the same order, so that the spikes
// do not depend on which blocks are sparse. Compile without contraction of a * b + c.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

constexpr int kBlock = 4096;  // neurons; 16 bits must hold a neuron's place in its block
constexpr int kChunk = 64;    // slots that are updated before anyone looks whether one spiked
constexpr std::uint16_t kNone = 0xFFFF;

enum Mode : std::int32_t { kAll = 0, kActive = 1, kAuto = 2 };

}  // namespace

extern "C" {

// Potentials are relative to rest. Mirrored field for field in whole_brain.py.
struct WholeBrainProblem {
    std::int64_t n_neurons, n_steps;
    const std::int64_t* offsets;          // (n_neurons + 1)
    const std::int32_t* targets;          // (edges)
    const void* weights;                  // (edges), float or double
    const std::int32_t* refractory_steps; // (n_neurons)
    std::int64_t delay_steps;             // >= 1
    double membrane, synapse, gain;       // v' = membrane v + gain g,  g' = synapse g
    double threshold, reset, floor;
    std::int64_t mode;
    double sparse_below, dense_above;     // active fractions at which a block changes
    double kick;
    std::int64_t n_inputs;
    const std::int32_t* inputs;           // (n_inputs), the neurons that are kicked at random
    const std::uint64_t* limits;          // (n_inputs), chance of a kick in a step, times 2^64
    std::uint64_t key;
    std::int64_t n_events;
    const std::int64_t* event_steps;      // (n_events), ascending
    const std::int32_t* event_neurons;
};

}  // extern "C"

namespace {

// The finalizer of splitmix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195).
inline std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

inline std::uint64_t draw(std::uint64_t key, std::uint64_t step, std::uint64_t input) {
    return mix(key + ((step << 32) | input) * 0x9E3779B97F4A7C15u);
}

template <typename Real>
struct Arrival {
    std::uint32_t place;  // step within the window times kBlock, plus neuron within the block
    Real weight;
};

// Arrivals of one block, in the order of their steps. Apart from the block: the buckets of all
// blocks are written to in turn, and their heads must stay in the innermost cache together.
template <typename Real>
struct Bucket {
    Arrival<Real>* end = nullptr;
    Arrival<Real>* limit = nullptr;
    std::unique_ptr<Arrival<Real>[]> data;

    void push(const Arrival<Real>& arrival) {
        if (end == limit) grow();
        *end++ = arrival;
    }

    // Apart, so that the loop around `push` keeps its registers.
    __attribute__((noinline)) void grow() {
        const auto size = end - data.get();
        const auto room = std::max<std::ptrdiff_t>(2 * size, 256);
        std::unique_ptr<Arrival<Real>[]> larger(new Arrival<Real>[room]);
        std::copy(data.get(), end, larger.get());
        data = std::move(larger);
        end = data.get() + size;
        limit = data.get() + room;
    }
};

using Kick = std::uint32_t;  // a place, as that of an arrival

struct Held {
    std::int64_t until;
    std::uint16_t neuron;
};

template <typename Real>
struct Constants {
    Real membrane, synapse, gain, threshold, reset, floor, kick;
};

template <typename Real>
bool at_rest(Real v, Real g, Real floor) {
    // No short circuit: this is to run in vectors.
    return (std::fabs(v) <= floor) & (std::fabs(g) <= floor);
}

// Take one step of kChunk slots; say whether one of them is above threshold.
template <typename Real>
bool advance(Real* __restrict v, Real* __restrict g, const Constants<Real>& c) {
    const Real membrane = c.membrane, synapse = c.synapse, gain = c.gain, threshold = c.threshold;
    int above = 0;
    for (int k = 0; k < kChunk; ++k) {
        const Real next = membrane * v[k] + gain * g[k];
        g[k] = synapse * g[k];
        v[k] = next;
        above |= next > threshold;
    }
    return above != 0;
}

template <typename Real>
struct Block {
    alignas(64) Real v[kBlock] = {};
    alignas(64) Real g[kBlock] = {};
    std::uint16_t neuron_of[kBlock];
    std::uint16_t slot_of[kBlock];
    int size = 0;     // neurons
    int n_slots = 0;  // slots in use; those beyond hold zeros
    bool dense = false;
    std::vector<Held> held;
    std::vector<Kick> kicks;
    std::vector<std::uint16_t> fired;

    void start(int n, bool all) {
        size = n;
        std::fill(slot_of, slot_of + kBlock, kNone);
        if (all) become_dense();
    }

    int slot(std::uint32_t neuron) {
        if (dense) return static_cast<int>(neuron);
        if (slot_of[neuron] == kNone) {
            slot_of[neuron] = static_cast<std::uint16_t>(n_slots);
            neuron_of[n_slots++] = static_cast<std::uint16_t>(neuron);
        }
        return slot_of[neuron];
    }

    void become_dense() {
        Real old_v[kBlock], old_g[kBlock];
        std::memcpy(old_v, v, sizeof v);
        std::memcpy(old_g, g, sizeof g);
        for (int i = 0; i < size; ++i) {
            const std::uint16_t from = slot_of[i];
            v[i] = from == kNone ? Real(0) : old_v[from];
            g[i] = from == kNone ? Real(0) : old_g[from];
        }
        for (int i = 0; i < size; ++i) slot_of[i] = neuron_of[i] = static_cast<std::uint16_t>(i);
        n_slots = size;
        dense = true;
    }

    // Let every neuron at rest go; also how a dense block becomes sparse.
    void drop_resting() {
        for (int i = n_slots - 1; i >= 0; --i) {
            if (v[i] != 0 || g[i] != 0) continue;
            const int last = --n_slots;
            slot_of[neuron_of[i]] = kNone;
            if (i != last) {
                neuron_of[i] = neuron_of[last];
                slot_of[neuron_of[i]] = static_cast<std::uint16_t>(i);
            }
            v[i] = v[last];
            g[i] = g[last];
            v[last] = g[last] = 0;
        }
        dense = false;
    }

    // Set to exact rest what is below the floor; return how many neurons are not at rest.
    int settle(Real floor) {
        int active = 0;
        for (int i = 0; i < n_slots; ++i) {
            const bool rests = at_rest(v[i], g[i], floor);
            v[i] = rests ? Real(0) : v[i];
            g[i] = rests ? Real(0) : g[i];
            active += !rests;
        }
        return active;
    }
};

struct Spike {
    std::int64_t step;
    std::int32_t neuron;
};

template <typename Real>
class Simulator {
  public:
    explicit Simulator(const WholeBrainProblem& problem)
        : p_(problem),
          c_{Real(p_.membrane), Real(p_.synapse), Real(p_.gain), Real(p_.threshold),
             Real(p_.reset), Real(p_.floor), Real(p_.kick)},
          n_blocks_((p_.n_neurons + kBlock - 1) / kBlock),
          blocks_(new Block<Real>[n_blocks_]),
          buckets_(n_blocks_),
          fired_(p_.delay_steps) {
        for (std::int64_t b = 0; b < n_blocks_; ++b) {
            const auto left = p_.n_neurons - b * kBlock;
            blocks_[b].start(static_cast<int>(std::min<std::int64_t>(left, kBlock)),
                             p_.mode == kAll);
        }
    }

    void run() {
        for (std::int64_t first = 0; first < p_.n_steps; first += p_.delay_steps) {
            const auto steps = std::min(p_.delay_steps, p_.n_steps - first);
            kick(first, steps);
            for (std::int64_t b = 0; b < n_blocks_; ++b) {
                advance_block(b, first, steps);
                if (steps == p_.delay_steps) settle(blocks_[b]);
            }
            windows_ += steps == p_.delay_steps;
            propagate(first, steps);
        }
    }

    std::vector<Spike> spikes;
    double active_fraction() const { return share(active_); }
    double dense_fraction() const { return share(dense_); }

  private:
    double share(std::int64_t count) const {
        return windows_ ? double(count) / (double(windows_) * double(p_.n_neurons)) : 0.0;
    }

    void kick_at(std::int64_t step, std::int32_t neuron) {
        blocks_[neuron / kBlock].kicks.push_back(
            static_cast<std::uint32_t>(step * kBlock + neuron % kBlock));
    }

    void kick(std::int64_t first, std::int64_t steps) {
        for (std::int64_t j = 0; j < steps; ++j) {
            kick_at_random(first + j, j);
            for (; event_ < p_.n_events && p_.event_steps[event_] == first + j; ++event_)
                kick_at(j, p_.event_neurons[event_]);
        }
    }

    void kick_at_random(std::int64_t step, std::int64_t j) {
        std::uint64_t drawn[kChunk];
        for (std::int64_t at = 0; at < p_.n_inputs; at += kChunk) {
            const int count = static_cast<int>(std::min<std::int64_t>(kChunk, p_.n_inputs - at));
            for (int k = 0; k < count; ++k) drawn[k] = draw(p_.key, step, at + k);
            for (int k = 0; k < count; ++k)
                if (drawn[k] < p_.limits[at + k]) kick_at(j, p_.inputs[at + k]);
        }
    }

    void advance_block(std::int64_t b, std::int64_t first, std::int64_t steps) {
        Block<Real>& block = blocks_[b];
        Bucket<Real>& bucket = buckets_[b];
        const Arrival<Real>* arrival = bucket.data.get();
        auto kick = block.kicks.begin();
        for (std::int64_t j = 0; j < steps; ++j) {
            find_spikes(block);
            for (; arrival != bucket.end && arrival->place / kBlock == j; ++arrival)
                block.g[block.slot(arrival->place % kBlock)] += arrival->weight;
            for (; kick != block.kicks.end() && *kick / kBlock == j; ++kick)
                block.v[block.slot(*kick % kBlock)] += c_.kick;
            reset_and_hold(block, b, first + j, fired_[j]);
        }
        bucket.end = bucket.data.get();
        block.kicks.clear();
    }

    void find_spikes(Block<Real>& block) {
        block.fired.clear();
        for (int at = 0; at < block.n_slots; at += kChunk) {
            if (!advance(block.v + at, block.g + at, c_)) continue;
            for (int i = at; i < at + kChunk; ++i)
                if (block.v[i] > c_.threshold) block.fired.push_back(block.neuron_of[i]);
        }
        // Slots have no order; sums of weights must have one.
        if (!block.dense) std::sort(block.fired.begin(), block.fired.end());
    }

    // After the arrivals, so that these are lost for whoever has spiked within the refractory time.
    void reset_and_hold(Block<Real>& block, std::int64_t b, std::int64_t step,
                        std::vector<std::int32_t>& fired) {
        for (const std::uint16_t neuron : block.fired) {
            const auto whole = static_cast<std::int32_t>(b * kBlock + neuron);
            fired.push_back(whole);
            block.held.push_back({step + std::max(p_.refractory_steps[whole], 1), neuron});
        }
        for (std::size_t i = 0; i < block.held.size();) {
            const Held held = block.held[i];
            const int slot = block.slot_of[held.neuron];
            if (slot != kNone) {
                block.v[slot] = c_.reset;
                block.g[slot] = 0;
            }
            if (step + 1 < held.until) {
                ++i;
            } else {
                block.held[i] = block.held.back();
                block.held.pop_back();
            }
        }
    }

    void settle(Block<Real>& block) {
        const int active = block.settle(c_.floor);
        const bool denser = active > p_.dense_above * block.size;
        const bool sparser = active < p_.sparse_below * block.size;
        active_ += active;
        if (block.dense) dense_ += block.size;
        if (block.dense) {
            if (p_.mode == kAuto && sparser) block.drop_resting();
        } else if (p_.mode == kAuto && denser) {
            block.become_dense();
        } else if (active < block.n_slots) {
            block.drop_resting();
        }
    }

    // Hand the weights of what spiked to the blocks they will reach.
    void propagate(std::int64_t first, std::int64_t steps) {
        const std::size_t before = spikes.size();
        for (std::int64_t j = 0; j < steps; ++j) {
            for (const std::int32_t neuron : fired_[j]) spikes.push_back({first + j, neuron});
            fired_[j].clear();
        }
        const Real* weights = static_cast<const Real*>(p_.weights);
        for (std::size_t i = before; i < spikes.size(); ++i) {
            const Spike spike = spikes[i];
            const auto step = static_cast<std::uint32_t>(spike.step - first) * kBlock;
            for (auto e = p_.offsets[spike.neuron]; e < p_.offsets[spike.neuron + 1]; ++e) {
                const auto post = static_cast<std::uint32_t>(p_.targets[e]);
                buckets_[post / kBlock].push({step | post % kBlock, weights[e]});
            }
        }
    }

    const WholeBrainProblem p_;
    const Constants<Real> c_;
    const std::int64_t n_blocks_;
    std::unique_ptr<Block<Real>[]> blocks_;
    std::vector<Bucket<Real>> buckets_;
    std::vector<std::vector<std::int32_t>> fired_;  // of each step of the window
    std::int64_t event_ = 0, windows_ = 0, active_ = 0, dense_ = 0;
};

struct Result {
    std::vector<Spike> spikes;
    double active_fraction, dense_fraction;
};

template <typename Real>
Result* run(const WholeBrainProblem* problem) {
    try {
        Simulator<Real> simulator(*problem);
        simulator.run();
        return new Result{std::move(simulator.spikes), simulator.active_fraction(),
                          simulator.dense_fraction()};
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

}  // namespace

extern "C" {

// Null: out of memory.
void* whole_brain_run_float(const WholeBrainProblem* problem) { return run<float>(problem); }
void* whole_brain_run_double(const WholeBrainProblem* problem) { return run<double>(problem); }

std::int64_t whole_brain_count(const void* result) {
    return static_cast<std::int64_t>(static_cast<const Result*>(result)->spikes.size());
}

void whole_brain_read(const void* result, std::int64_t* steps, std::int32_t* neurons,
                      double* fractions) {
    const auto& found = *static_cast<const Result*>(result);
    for (const Spike& spike : found.spikes) {
        *steps++ = spike.step;
        *neurons++ = spike.neuron;
    }
    fractions[0] = found.active_fraction;
    fractions[1] = found.dense_fraction;
}

void whole_brain_free(void* result) { delete static_cast<Result*>(result); }

}  // extern "C"
