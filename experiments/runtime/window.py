"""Training metrics between two rows. Apart from `metrics`, which can be read without JAX."""

from collections.abc import Mapping

import jax
import numpy as np

from experiments.runtime.nonfinite import check_finite


class Window:
  """Metrics of the steps since the last row; a resumed run passes the `notes` it saved."""

  def __init__(self, fetched: list[Mapping[str, float]]):
    self._fetched = fetched
    self._in_flight: tuple[int, Mapping[str, jax.Array]] | None = None

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Adds the metrics of the step in flight; waits for those of the previous step."""
    self._fetch()
    self._in_flight = step, metrics

  def means(self) -> dict[str, float]:
    """Means over the steps, of what all of them have; starts the next window."""
    fetched = self.notes()
    self._fetched = []
    # A run that is resumed without `run.diagnostics` has them in the steps before alone.
    names = [name for name in fetched[0] if all(name in m for m in fetched)]
    return {name: float(np.mean([m[name] for m in fetched])) for name in names}

  def notes(self) -> list[Mapping[str, float]]:
    """Metrics of the steps so far, for `Window` in a resumed run."""
    self._fetch()
    return self._fetched

  def _fetch(self) -> None:
    if self._in_flight:
      step, metrics = self._in_flight
      values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
      check_finite(step, values)
      self._fetched.append(values)
      self._in_flight = None
