"""The quantities of §2.1, measured at every step with `config.run.diagnostics=True`."""

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

import wn

PREFIX = 'diagnostics/'


def per_layer(model: nnx.Module, gradients: nnx.State, updated: nnx.State) -> dict[str, jax.Array]:
  """Norms and angles of all kernels, as means over the units of a layer.

  For a plain layer v is the weight itself, and there is no g.

  Args:
    model: before the step.
    gradients: of the loss.
    updated: parameters after the step.

  Returns:
    'diagnostics/LAYER/QUANTITY' → scalar, with the quantities

      v_norm                   ‖v‖
      g                        |g|
      v_grad_norm              ‖∇v‖
      v_grad_cosine            |v·∇v| / (‖v‖ ‖∇v‖), which Eq. 3 makes 0 for normalized layers
      effective_learning_rate  ‖Δv‖ / ‖v‖, the c of §2.1: to first order the angle in radians by
                               which the step turns v, and w with it
  """
  gradients, updated = (
    traverse_util.flatten_dict(nnx.to_pure_dict(state)) for state in (gradients, updated)
  )
  metrics = {}
  for path, layer in nnx.iter_modules(model):
    if not hasattr(layer, 'kernel'):
      continue
    is_normed = isinstance(layer, wn.WeightNormed)
    v = layer.masked_kernel() if is_normed else layer.kernel[...]
    dv = gradients[*path, 'kernel']
    step = updated[*path, 'kernel'] - layer.kernel[...]
    v, dv, step = (jnp.moveaxis(x, wn.unit_axes(layer), -1) for x in (v, dv, step))
    values = {'v_norm': _norm(v)}
    if is_normed:
      values['g'] = jnp.abs(layer.get_scale())
    values['v_grad_norm'] = _norm(dv)
    values['v_grad_cosine'] = _ratio(jnp.abs(_per_unit(v * dv)), _norm(v) * _norm(dv))
    values['effective_learning_rate'] = _ratio(_norm(step), _norm(v))
    name = '.'.join(map(str, path))
    metrics |= {f'{PREFIX}{name}/{key}': jnp.mean(value) for key, value in values.items()}
  return metrics


def _per_unit(x: jax.Array) -> jax.Array:
  """Sum over all axes but the last, the units."""
  return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def _norm(x: jax.Array) -> jax.Array:
  return jnp.sqrt(_per_unit(jnp.square(x)))


def _ratio(x: jax.Array, y: jax.Array) -> jax.Array:
  """x / y, or 0 where y is 0."""
  return jnp.where(y > 0, x / jnp.where(y > 0, y, 1.0), 0.0)
