"""Grow neural networks instead of retraining them."""

__version__ = "0.1.0"
