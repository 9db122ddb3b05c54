"""Training metrics between two rows. Apart from `metrics`, which can be read without JAX."""

from collections.abc import Mapping

import jax
import numpy as np

from experiments.runtime.nonfinite import check_finite


class Window:
  """Metrics of the steps since the last row.

  Args:
    fetched: those of a run that is resumed between two rows.
  """

  def __init__(self, fetched: list[Mapping[str, float]]):
    self._fetched = fetched
    self._in_flight: tuple[int, Mapping[str, jax.Array]] | None = None

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Takes the metrics of a step in progress, and waits for those of the step before."""
    self._fetch()
    self._in_flight = step, metrics

  def means(self) -> dict[str, float]:
    """Means over the steps, for a row; the next window begins."""
    fetched = self.notes()
    self._fetched = []
    return {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}

  def notes(self) -> list[Mapping[str, float]]:
    """What `Window` needs to resume from here."""
    self._fetch()
    return self._fetched

  def _fetch(self) -> None:
    if self._in_flight:
      step, metrics = self._in_flight
      values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
      check_finite(step, values)
      self._fetched.append(values)
      self._in_flight = None
