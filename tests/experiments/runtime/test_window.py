"""Metrics between two rows."""

import jax.numpy as jnp

from experiments.runtime.window import Window


def test_means_over_the_steps_also_of_a_resumed_run():
  window = Window([{'loss': 1.0}])
  window.add(2, {'loss': jnp.float32(3)})
  assert window.notes() == [{'loss': 1.0}, {'loss': 3.0}]
  assert window.means() == {'loss': 2.0}
  window.add(3, {'loss': jnp.float32(5)})
  assert window.means() == {'loss': 5.0}


def test_a_run_resumed_with_or_without_diagnostics():
  with_diagnostics, without = {'loss': 1.0, 'diagnostics/norm': 2.0}, {'loss': 3.0}
  for first, second in ((with_diagnostics, without), (without, with_diagnostics)):
    window = Window([first])
    window.add(2, {name: jnp.float32(value) for name, value in second.items()})
    assert window.means() == {'loss': 2.0}
