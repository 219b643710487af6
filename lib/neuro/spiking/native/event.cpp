// Backend "event": a population over a sequence, forward and in reverse; see event.py.

#include "adaptive.h"
#include "backward.h"
#include "conductance.h"
#include "currents.h"
#include "forward.h"
#include "lif.h"

// In the order of MODELS in event_call.py.
enum { MODEL_LIF, MODEL_ADAPTIVE, MODEL_CONDUCTANCE, MODEL_CURRENTS };

extern "C" void event_forward(const Call* call) {
    switch (call->model) {
        case MODEL_LIF: forward<LIF>(*call); break;
        case MODEL_ADAPTIVE: forward<Adaptive>(*call); break;
        case MODEL_CONDUCTANCE: forward<Conductance>(*call); break;
        case MODEL_CURRENTS: forward<Currents>(*call); break;
    }
}

extern "C" void event_backward(const Call* call) {
    switch (call->model) {
        case MODEL_LIF: Backward<LIF>(*call).run(); break;
        case MODEL_ADAPTIVE: Backward<Adaptive>(*call).run(); break;
        case MODEL_CONDUCTANCE: Backward<Conductance>(*call).run(); break;
        case MODEL_CURRENTS: Backward<Currents>(*call).run(); break;
    }
}

extern "C" int64_t event_lanes() { return LANES; }
