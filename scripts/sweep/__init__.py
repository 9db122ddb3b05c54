"""Runs the sweeps that a config file names."""
