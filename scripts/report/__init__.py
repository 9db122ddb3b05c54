"""Turns runs into the paper's tables and figures."""
