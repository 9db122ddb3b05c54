"""What type checkers must and must not accept: `mypy` and `pyright` read this file; it never runs.

A wrong line is marked, and a mark that no error needs is an error.
"""

import jax
import optax
from flax import nnx

import wn


class Net(nnx.Module):
  """Layers of each kind, as a user writes them."""

  def __init__(self, rngs: nnx.Rngs):
    self.conv = wn.Conv(3, 64, (3, 3), padding='SAME', rngs=rngs)
    self.norm = wn.MeanOnlyBatchNorm(64, rngs=rngs)
    self.cell = wn.LSTMCell(64, 32, rngs=rngs)
    self.linear = wn.Linear(32, 10, use_bias=False, unit_axis=None, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.linear(nnx.relu(self.conv(x)))


def train(model: Net, x: jax.Array, y: jax.Array) -> Net:
  """A step, and the functions that keep the type of a model."""
  wn.data_dependent_init(model, x)
  optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

  def loss(model: Net) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

  optimizer.update(model, nnx.grad(loss)(model))
  return wn.fold(wn.unfold(model))


def weight(v: jax.Array, g: jax.Array) -> jax.Array:
  """The pure functions."""
  return wn.weight_norm(v, g, unit_axis=(0, 1)) / wn.unit_norm(v, unit_axis=None)


rngs = nnx.Rngs(0)
wn.Linear(64, 128)  # type: ignore
wn.Linear(64, 128, use_bais=True, rngs=rngs)  # type: ignore
wn.Linear(64, 128, 3, rngs=rngs)  # type: ignore
wn.Conv(3, 96, (3, 3), paddng='SAME', rngs=rngs)  # type: ignore
wn.LSTMCell(3, rngs=rngs)  # type: ignore
