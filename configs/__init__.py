"""One `get_config(spec)` per experiment, for `--config configs/NAME.py:SPEC`."""
