"""What training makes small; spikes and traces are (T, B, N), spike counts (B, N)."""

from neuro.losses.classification import max_over_time, max_over_time_loss
from neuro.losses.cv import IntervalMoments, cv_loss, interval_moments
from neuro.losses.firing_rate import firing_rate_loss, mean_rate_hz
from neuro.losses.imitation import choose_recorded, filtered_spike_loss, trace_loss
from neuro.losses.membrane_variance import membrane_variance_loss
from neuro.losses.silent import silent_neuron_loss
from neuro.losses.spike_counts import SpikeCountBounds, lower_bound_l2, upper_bound_l1
from neuro.losses.van_rossum import VanRossumLoss, VanRossumState, van_rossum_loss
from neuro.losses.weight_ratio import weight_ratio_loss

__all__ = [
    "IntervalMoments",
    "SpikeCountBounds",
    "VanRossumLoss",
    "VanRossumState",
    "choose_recorded",
    "cv_loss",
    "filtered_spike_loss",
    "firing_rate_loss",
    "interval_moments",
    "lower_bound_l2",
    "max_over_time",
    "max_over_time_loss",
    "mean_rate_hz",
    "membrane_variance_loss",
    "silent_neuron_loss",
    "trace_loss",
    "upper_bound_l1",
    "van_rossum_loss",
    "weight_ratio_loss",
]
