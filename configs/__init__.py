"""Configurations: `get_config(spec)` per experiment, read by `--config configs/NAME.py:SPEC`."""
