"""Rows of metrics of two runs that should be the same but for rounding."""

import pytest


def largest_difference(rows, expected):
  """Checks rows, without their seconds; returns the largest difference of a metric.

  It is relative to the metric or, if that is below 0.1, to 0.1.
  """
  largest = 0.0
  for row, other in zip(rows, expected, strict=True):
    row.pop('seconds'), other.pop('seconds')
    assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    errors = [abs(row[name] - other[name]) / max(0.1, abs(other[name])) for name in row]
    largest = max(largest, *errors)
  return largest
