"""What training makes small; all take spikes of shape (T, B, N) with their gradient."""

from neuro.losses.cv import IntervalMoments, cv_loss, interval_moments
from neuro.losses.firing_rate import firing_rate_loss, mean_rate_hz
from neuro.losses.membrane_variance import membrane_variance_loss
from neuro.losses.silent import silent_neuron_loss
from neuro.losses.van_rossum import VanRossumLoss, VanRossumState, van_rossum_loss
from neuro.losses.weight_ratio import weight_ratio_loss

__all__ = [
    "IntervalMoments",
    "VanRossumLoss",
    "VanRossumState",
    "cv_loss",
    "firing_rate_loss",
    "interval_moments",
    "mean_rate_hz",
    "membrane_variance_loss",
    "silent_neuron_loss",
    "van_rossum_loss",
    "weight_ratio_loss",
]
