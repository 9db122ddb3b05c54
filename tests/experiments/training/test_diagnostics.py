"""The quantities of §2.1 against NumPy in float64, and what the paper says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wn
from experiments.training import diagnostics


class Net(nnx.Module):
  def __init__(self, library, **kwargs):
    rngs = nnx.Rngs(0)
    self.conv = library.Conv(2, 6, (3, 3), rngs=rngs, **kwargs)
    self.out = nnx.List([library.Linear(6, 5, rngs=rngs, **kwargs)])

  def __call__(self, x):
    return self.out[0](nnx.relu(self.conv(x)).mean(axis=(1, 2)))


X = jax.random.normal(jax.random.key(1), (20, 8, 8, 2))
TARGET = jax.random.normal(jax.random.key(2), (20, 5))


def steps(model, optimizer, count):
  """Metrics and kernels of each step of gradient descent."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  loss = lambda params: jnp.mean(jnp.square(nnx.merge(graphdef, params, rest)(X) - TARGET))
  opt_state = optimizer.init(params)
  for _ in range(count):
    gradients = jax.grad(loss)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    new = optax.apply_updates(params, updates)
    metrics = diagnostics.per_layer(nnx.merge(graphdef, params, rest), gradients, new)
    yield {name: float(value) for name, value in metrics.items()}, params, gradients, new
    params = new


@pytest.mark.parametrize('library', [nnx, wn])
def test_quantities(library):
  ((metrics, params, gradients, new),) = steps(Net(library), optax.sgd(0.1), 1)
  quantities = ['v_norm', 'v_grad_norm', 'v_grad_cosine', 'effective_learning_rate']
  quantities += ['g'] if library is wn else []
  assert metrics.keys() == {
    f'diagnostics/{layer}/{q}' for layer in ('conv', 'out.0') for q in quantities
  }
  units = lambda state: np.asarray(state.conv.kernel[...], np.float64).reshape(-1, 6).T
  v, dv, change = units(params), units(gradients), units(new) - units(params)
  norm = lambda x: np.linalg.norm(x, axis=1)
  of = lambda name: metrics[f'diagnostics/conv/{name}']
  np.testing.assert_allclose(of('v_norm'), norm(v).mean(), rtol=1e-5)
  np.testing.assert_allclose(of('v_grad_norm'), norm(dv).mean(), rtol=1e-5)
  np.testing.assert_allclose(
    of('effective_learning_rate'), (norm(change) / norm(v)).mean(), rtol=1e-4
  )
  cosine = np.abs((v * dv).sum(axis=1)) / (norm(v) * norm(dv))
  np.testing.assert_allclose(of('v_grad_cosine'), cosine.mean(), rtol=1e-4, atol=1e-6)
  if library is wn:
    np.testing.assert_allclose(of('g'), norm(v).mean(), rtol=1e-5)  # at the start g = ‖v‖


def test_v_is_orthogonal_to_its_gradient_under_weight_normalization_only():
  for library, bounds in ((wn, (0, 1e-6)), (nnx, (0.01, 1))):
    ((metrics, *_),) = steps(Net(library), optax.sgd(0.1), 1)
    assert bounds[0] <= metrics['diagnostics/conv/v_grad_cosine'] <= bounds[1]


def test_norms_grow_and_turning_slows_under_gradient_descent():
  """§2.1: v·∇v = 0, so that every step makes ‖v‖ longer."""
  metrics = [metrics for metrics, *_ in steps(Net(wn), optax.sgd(1.0), 20)]
  norms = [m['diagnostics/conv/v_norm'] for m in metrics]
  assert np.all(np.diff(norms) > 0)


def test_log_scale_and_mask():
  mask = np.ones((3, 3, 2, 6))
  mask[..., 0] = 0  # a unit without weights
  layer = wn.Conv(2, 6, (3, 3), mask=jnp.asarray(mask), log_scale=True, rngs=nnx.Rngs(0))
  net = Net(wn)
  net.conv = layer
  ((metrics, *_),) = steps(net, optax.sgd(0.1), 1)
  v = np.asarray(layer.masked_kernel(), np.float64).reshape(-1, 6)
  norms = np.linalg.norm(v, axis=0)
  np.testing.assert_allclose(metrics['diagnostics/conv/v_norm'], norms.mean(), rtol=1e-5)
  g = np.where(norms == 0, 1.0, norms)  # a unit without weights has g = 1
  np.testing.assert_allclose(metrics['diagnostics/conv/g'], g.mean(), rtol=1e-5)
  assert all(np.isfinite(value) for value in metrics.values())
