"""Measures training steps and whole runs: `python -m scripts.benchmark`."""
