"""The moving average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.training.state import TrainState, ema_decay


@pytest.mark.parametrize(
  ('epochs', 'steps_per_epoch', 'expected'),
  [
    (10.0, 600, 1 - 1 / 6000),  # MNIST in batches of 100
    (10, 3125, 1 - 1 / 31250),  # CIFAR-10 in batches of 16
    (0.32, 3125, 0.999),  # as in the authors' code
    (0.5, 10, 0.8),
    (0.0, 600, 0.0),
    (0.1, 5, 0.0),  # less than a step: the parameters themselves
  ],
)
def test_decay_of_an_average_over_so_many_epochs(epochs, steps_per_epoch, expected):
  np.testing.assert_allclose(ema_decay(epochs, steps_per_epoch), expected, rtol=1e-12)


@pytest.mark.parametrize('decay', [0.0, 0.9, 1 - 1 / 6000])
def test_the_average_is_of_the_parameters_after_each_step(decay):
  """Weights (1 − d) dᵗ⁻ⁱ of θᵢ, divided by their sum; none of what was before the first step."""
  optimizer = optax.sgd(1.0)
  params = nnx.State({'w': nnx.Param(jnp.array([100.0, -100.0]))})
  state = TrainState.create(params, nnx.State({}), optimizer, ema=True)
  rng = np.random.default_rng(0)
  history = []
  for t in range(1, 8):
    gradients = nnx.State({'w': nnx.Param(jnp.asarray(rng.normal(size=2), jnp.float32))})
    state = state.apply_gradients(gradients, nnx.State({}), optimizer, ema_decay=decay)
    history.append(np.asarray(jax.tree.leaves(state.params)[0], np.float64))
    weights = (1 - decay) * decay ** np.arange(t - 1, -1, -1.0)
    expected = weights @ np.stack(history) / weights.sum()
    np.testing.assert_allclose(jax.tree.leaves(state.eval_params)[0], expected, rtol=1e-5)
  assert int(state.step) == 7
