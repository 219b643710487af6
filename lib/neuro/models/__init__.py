"""One file a system."""

from neuro.models.digits_classifier import DigitsClassifier, DigitsResponse

__all__ = ["DigitsClassifier", "DigitsResponse"]
