"""Quickstart, sweeps, reports and benchmarks."""
