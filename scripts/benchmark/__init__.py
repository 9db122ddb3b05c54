"""Measures the training step and what surrounds it: `python -m scripts.benchmark`."""
