"""The LSTM with peepholes against Graves (2013), Eq. 7–11, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from experiments.draw.lstm import PeepholeLSTMCell

UNITS, INPUTS = 3, 4


@pytest.fixture
def cell():
  normal = nnx.initializers.normal(0.7)
  return PeepholeLSTMCell(
    INPUTS, UNITS, kernel_init=normal, recurrent_kernel_init=normal, bias_init=normal,
    rngs=nnx.Rngs(0),
  )  # fmt: skip


def numpy_step(cell, c, h, x):
  """The equations, gate by gate; W of a gate is the two kernels one below the other."""
  array = lambda variable: np.asarray(variable[...], np.float64)
  sigmoid = lambda a: 1 / (1 + np.exp(-a))

  def gate(inputs, hidden):
    kernel = np.concatenate([array(inputs.kernel), array(hidden.kernel)])
    return np.concatenate([x, h], axis=1) @ kernel + array(hidden.bias)

  i = sigmoid(gate(cell.ii, cell.hi) + array(cell.peephole_i) * c)
  f = sigmoid(gate(cell.if_, cell.hf) + array(cell.peephole_f) * c)
  new = f * c + i * np.tanh(gate(cell.ig, cell.hg))
  o = sigmoid(gate(cell.io, cell.ho) + array(cell.peephole_o) * new)
  return new, o * np.tanh(new)


def test_two_steps_are_those_of_the_equations(cell):
  random = np.random.default_rng(0)
  c = h = np.zeros((2, UNITS))
  carry = (jnp.zeros((2, UNITS)), jnp.zeros((2, UNITS)))
  for _ in range(2):
    x = random.normal(size=(2, INPUTS))
    c, h = numpy_step(cell, c, h, x)
    carry, y = cell(carry, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(carry[0], c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, h, rtol=1e-5, atol=1e-6)


def test_peepholes_are_drawn_trained_and_not_normalized(cell):
  normalized = wn.unfold(cell)
  assert type(normalized.ii) is wn.Linear and type(normalized.ho) is wn.Linear
  np.testing.assert_array_equal(normalized.peephole_o[...], cell.peephole_o[...])
  assert np.abs(cell.peephole_i[...]).min() > 0
  carry = (jnp.ones((2, UNITS)), jnp.ones((2, UNITS)))
  gradients = nnx.grad(lambda cell: jnp.sum(cell(carry, jnp.ones((2, INPUTS)))[1]))(normalized)
  for name in ('peephole_i', 'peephole_f', 'peephole_o'):
    assert np.abs(gradients[name][...]).min() > 0
  folded = wn.fold(normalized)
  np.testing.assert_allclose(
    jax.tree.leaves(folded(carry, jnp.ones((2, INPUTS)))),
    jax.tree.leaves(cell(carry, jnp.ones((2, INPUTS)))),
    rtol=1e-5,
  )
