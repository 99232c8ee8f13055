"""Reason2Decide in JAX and Flax NNX: two-stage training of one T5 that predicts a label and explains it.

docs/architecture.md is a map of the code.
"""

__version__ = "0.1.0"
