"""Runs the sweeps of a config file: `python -m scripts.sweep`."""
