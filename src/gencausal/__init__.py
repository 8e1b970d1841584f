"""GenCausal: four systems of generative causal inference, re-implemented and put to the test."""

__version__ = "0.1.0"
