"""The cells against their nnx namesakes and against a float64 NumPy step."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn

NAMESAKES = {wn.LSTMCell: nnx.LSTMCell, wn.GRUCell: nnx.GRUCell}
for_each_cell = pytest.mark.parametrize('cls', NAMESAKES)
BATCH, TIME, IN, HIDDEN = 3, 4, 4, 5


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def trained(cls, **kwargs):
  """A cell with random parameters: its scales are not ‖v‖, and some are negative."""
  cell = cls(IN, HIDDEN, **kwargs, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(7)
  random_like = lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype)
  nnx.update(cell, jax.tree.map(random_like, nnx.state(cell, nnx.Param)))
  return cell


def zero_carry(cell):
  return cell.initialize_carry((BATCH, IN), nnx.Rngs(0))


def unroll(cell, xs):
  """Outputs [T, B, H] of a Python loop over xs [T, B, C]."""
  carry, ys = zero_carry(cell), []
  for x in xs:
    carry, y = cell(carry, x)
    ys.append(y)
  return jnp.stack(ys)


# The reference: the cells' equations with w = (g/‖v‖) v, one g per column.


def affine(linear, x):
  v, g = np.asarray(linear.kernel, np.float64), np.asarray(linear.scale, np.float64)
  g = np.exp(linear.log_scale * g) if linear.log_scale else g
  y = x @ (g / np.sqrt(np.sum(v**2, 0)) * v)
  return y if linear.bias is None else y + np.asarray(linear.bias, np.float64)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def numpy_lstm_step(cell, carry, x):
  c, h = carry
  i = sigmoid(affine(cell.ii, x) + affine(cell.hi, h))
  f = sigmoid(affine(cell.if_, x) + affine(cell.hf, h))
  g = np.tanh(affine(cell.ig, x) + affine(cell.hg, h))
  o = sigmoid(affine(cell.io, x) + affine(cell.ho, h))
  c = f * c + i * g
  h = o * np.tanh(c)
  return (c, h), h


def numpy_gru_step(cell, h, x):
  r_x, z_x, n_x = np.split(affine(cell.dense_i, x), 3, -1)
  r_h, z_h, n_h = np.split(affine(cell.dense_h, h), 3, -1)
  r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
  n = np.tanh(n_x + r * n_h)
  h = (1 - z) * n + z * h
  return h, h


def numpy_unroll(cell, xs):
  step = numpy_lstm_step if isinstance(cell, nnx.LSTMCell) else numpy_gru_step
  zeros = np.zeros((BATCH, HIDDEN))
  carry, ys = (zeros, zeros) if isinstance(cell, nnx.LSTMCell) else zeros, []
  for x in np.asarray(xs, np.float64):
    carry, y = step(cell, carry, x)
    ys.append(y)
  return np.stack(ys)


@for_each_cell
def test_constructor_passes_every_argument_on(cls):
  kwargs = dict(
    in_features=IN,
    hidden_features=HIDDEN,
    gate_fn=jax.nn.hard_sigmoid,
    activation_fn=jax.nn.relu,
    kernel_init=nnx.initializers.normal(0.3),
    recurrent_kernel_init=nnx.initializers.normal(0.4),
    bias_init=nnx.initializers.normal(0.2),
    dtype=jnp.float32,
    param_dtype=jnp.float16,
    carry_init=None,
    promote_dtype=lambda args, dtype: nnx.nn.dtypes.promote_dtype(args, dtype=dtype),
    keep_rngs=False,
    kernel_metadata={'note': 'input'},
    recurrent_kernel_metadata={'note': 'recurrent'},
    bias_metadata={'note': 'bias'},
  )
  parameters = inspect.signature(NAMESAKES[cls].__init__).parameters
  assert {*kwargs, 'self', 'rngs'} == {*parameters}
  plain = NAMESAKES[cls](**kwargs, rngs=nnx.Rngs(3))
  cell = cls(**kwargs, rngs=nnx.Rngs(3))
  for name, value in vars(plain).items():
    if isinstance(value, nnx.Linear):
      linear = getattr(cell, name)
      np.testing.assert_array_equal(linear.kernel[...], value.kernel[...])
      assert linear.kernel.get_metadata() == value.kernel.get_metadata()
      assert (linear.bias is None) == (value.bias is None)
      if value.bias is not None:
        np.testing.assert_array_equal(linear.bias[...], value.bias[...])
        assert linear.bias.get_metadata() == value.bias.get_metadata()
    elif not name.startswith('_pytree__'):
      assert getattr(cell, name) == value


@for_each_cell
@pytest.mark.parametrize('log_scale', [False, True, 3.0])
def test_every_weight_matrix_has_a_scale_for_each_column(cls, log_scale):
  names = {
    wn.LSTMCell: {'ii', 'if_', 'ig', 'io', 'hi', 'hf', 'hg', 'ho'},
    wn.GRUCell: {'dense_i', 'dense_h'},
  }[cls]
  cell = cls(IN, HIDDEN, log_scale=log_scale, rngs=nnx.Rngs(0))
  linears = {name: value for name, value in vars(cell).items() if isinstance(value, nnx.Linear)}
  assert linears.keys() == names
  for linear in linears.values():
    assert type(linear) is wn.Linear
    assert linear.log_scale == log_scale
    norm = np.linalg.norm(np.asarray(linear.kernel, np.float64), axis=0)
    g = np.exp(log_scale * linear.scale[...]) if log_scale else linear.scale[...]
    np.testing.assert_allclose(g, norm, rtol=1e-6)


@for_each_cell
@pytest.mark.parametrize('log_scale', [False, True, 3.0])
def test_at_construction_the_function_is_that_of_the_plain_cell(cls, log_scale):
  xs = random(TIME, BATCH, IN)
  plain = NAMESAKES[cls](IN, HIDDEN, rngs=nnx.Rngs(1))
  cell = cls(IN, HIDDEN, log_scale=log_scale, rngs=nnx.Rngs(1))
  np.testing.assert_allclose(unroll(cell, xs), unroll(plain, xs), atol=1e-6)


@for_each_cell
@pytest.mark.parametrize('log_scale', [False, True, 3.0])
def test_trained_cell_follows_the_equations(cls, log_scale):
  xs = random(TIME, BATCH, IN)
  cell = trained(cls, log_scale=log_scale)
  np.testing.assert_allclose(unroll(cell, xs), numpy_unroll(cell, xs), atol=5e-6)


@for_each_cell
def test_trained_cell_is_the_plain_cell_with_folded_weights(cls):
  xs = random(TIME, BATCH, IN)
  cell = trained(cls)
  plain = NAMESAKES[cls](IN, HIDDEN, rngs=nnx.Rngs(1))
  for name, linear in vars(plain).items():
    if isinstance(linear, nnx.Linear):
      normalized = getattr(cell, name)
      v, g = np.asarray(normalized.kernel), np.asarray(normalized.scale)
      linear.kernel[...] = jnp.asarray(g / np.linalg.norm(v, axis=0) * v)
      if linear.bias is not None:
        linear.bias[...] = normalized.bias[...]
  np.testing.assert_allclose(unroll(cell, xs), unroll(plain, xs), atol=5e-6)


@for_each_cell
def test_works_in_nnx_rnn(cls):
  xs = random(TIME, BATCH, IN)
  cell = trained(cls)
  before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(cell)))
  ys = nnx.RNN(cell, time_major=True)(xs)
  np.testing.assert_allclose(ys, numpy_unroll(cell, xs), atol=5e-6)
  jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(cell)), before)


@for_each_cell
@pytest.mark.parametrize('log_scale', [False, True, 3.0])
def test_folding_outside_a_scan_leaves_outputs_and_gradients_of_v_and_g(cls, log_scale):
  xs, dys = random(TIME, BATCH, IN), random(TIME, BATCH, HIDDEN, seed=1)
  graphdef, params = nnx.split(trained(cls, log_scale=log_scale))

  @functools.partial(jax.jit, static_argnames='fold')
  def outputs_and_gradients(params, fold):
    def outputs(params):
      cell = nnx.merge(graphdef, params)
      if fold:
        cell = wn.fold(cell)
        assert type(cell) is NAMESAKES[cls]
      return jax.lax.scan(lambda carry, x: cell(carry, x), zero_carry(cell), xs)[1]

    ys, vjp = jax.vjp(outputs, params)
    return ys, nnx.to_pure_dict(vjp(dys)[0])

  ys, grads = outputs_and_gradients(params, fold=True)
  expected_ys, expected_grads = outputs_and_gradients(params, fold=False)
  np.testing.assert_allclose(ys, expected_ys, atol=1e-6)
  for linear, by_name in expected_grads.items():
    assert {'kernel', 'scale'} <= by_name.keys()
    for name, expected in by_name.items():
      assert np.abs(expected).max() > 0
      np.testing.assert_allclose(
        grads[linear][name], expected, rtol=0, atol=2e-5 * np.abs(expected).max()
      )
