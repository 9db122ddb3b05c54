"""The layers with masks, partitioning and in training."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import (
  assert_close,
  checkerboard,
  f64,
)
from tests.wn.test_layers import (
  for_each_kind,
  gradients,
  output_axis,
  random,
  reference,
  trained,
  units_first,
)

# Masks and zero units.


def checkerboard_mask(cls, kwargs):
  return checkerboard(*cls(**kwargs, rngs=nnx.Rngs(0)).kernel.shape)


@for_each_kind
@pytest.mark.parametrize('log_scale', [False, True])
def test_masked_weights_have_no_part_in_anything(cls, kwargs, in_shape, log_scale):
  mask = checkerboard_mask(cls, kwargs)
  layer = trained(cls, **kwargs, mask=mask, log_scale=log_scale)
  x = random(*in_shape)
  y = layer(x)
  dy = random(*y.shape, seed=1)
  g = np.exp(f64(layer.scale)) if log_scale else f64(layer.scale)
  expected_y, expected = reference(layer, x, dy, v=layer.kernel * mask, g=g)
  assert_close(y, expected_y)
  actual = gradients(layer, x, dy)
  assert_close(actual['kernel'], expected['kernel'] * f64(mask))
  assert_close(actual['scale'], expected['scale'] * g if log_scale else expected['scale'])

  layer.kernel[...] += 100 * (1 - mask)
  np.testing.assert_array_equal(layer(x), y)


@for_each_kind
def test_fully_masked_unit_is_zero_and_has_zero_gradients(cls, kwargs, in_shape):
  layer = cls(**kwargs, rngs=nnx.Rngs(0))
  mask = np.ones(layer.kernel.shape)
  np.moveaxis(mask, output_axis(layer), 0)[1] = 0
  layer = cls(**kwargs, mask=jnp.asarray(mask, jnp.float32), rngs=nnx.Rngs(0))
  masked = np.arange(6) == 1

  x = random(*in_shape)
  y = layer(x)
  actual = gradients(layer, x, random(*y.shape, seed=1))
  for by_unit in (
    y.reshape(-1, 6).T,
    units_first(layer, layer.normalized_kernel()),
    units_first(layer, actual['kernel']),
    actual['scale'],
  ):
    by_unit = np.asarray(by_unit)
    assert np.isfinite(by_unit).all()
    assert not by_unit[masked].any()
    assert by_unit[~masked].all()


@for_each_kind
def test_zero_kernel_outputs_the_bias_and_can_leave_the_origin(cls, kwargs, in_shape):
  inits = dict(kernel_init=nnx.initializers.zeros, bias_init=nnx.initializers.normal(1.0))
  layer = cls(**kwargs, **inits, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(layer.scale[...], np.zeros(6))
  norms = np.linalg.norm(units_first(layer, layer.kernel[...]).reshape(6, -1), axis=1)
  np.testing.assert_allclose(norms, 1, rtol=1e-6)
  x = random(*in_shape)
  y = layer(x)
  np.testing.assert_array_equal(y, jnp.broadcast_to(layer.bias[...], y.shape))
  actual = gradients(layer, x, random(*y.shape, seed=1))
  assert all(np.isfinite(gradient).all() for gradient in actual.values())
  assert actual['scale'].all() and not actual['kernel'].any()


@for_each_kind
def test_zero_kernel_with_log_scale_stays_with_a_warning(cls, kwargs, in_shape):
  """exp(c s) cannot be 0."""
  with pytest.warns(UserWarning, match='6 of 6 units .* zero kernel.*Use log_scale=0'):
    layer = cls(**kwargs, kernel_init=nnx.initializers.zeros, log_scale=True, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(layer.scale[...], np.zeros(6))
  x = random(*in_shape)
  assert not layer(x).any()
  actual = gradients(layer, x, random(*layer(x).shape, seed=1))
  assert all(np.isfinite(gradient).all() for gradient in actual.values())
  assert actual['kernel'].all()


@for_each_kind
def test_mask_of_another_shape_is_an_error(cls, kwargs, in_shape):
  mask = checkerboard_mask(cls, kwargs)[..., :-1]
  with pytest.raises(ValueError, match='mask must have the shape of the kernel'):
    cls(**kwargs, mask=mask, rngs=nnx.Rngs(0))


@for_each_kind
@pytest.mark.parametrize('value', [-1, 0.5, 2, np.nan])
def test_mask_with_other_values_than_0_and_1_is_an_error(cls, kwargs, in_shape, value):
  mask = checkerboard_mask(cls, kwargs).at[0, 0].set(value)
  with pytest.raises(ValueError, match='mask must hold only 0'):
    cls(**kwargs, mask=mask, rngs=nnx.Rngs(0))


@for_each_kind
@pytest.mark.parametrize('dtype', [bool, int, jnp.bfloat16])
def test_mask_may_have_any_dtype(cls, kwargs, in_shape, dtype):
  mask = checkerboard_mask(cls, kwargs)
  x = random(*in_shape)
  expected = cls(**kwargs, mask=mask, rngs=nnx.Rngs(0))(x)
  layer = cls(**kwargs, mask=mask.astype(dtype), rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(layer(x), expected)


# Nothing else changes when a layer is swapped.


@for_each_kind
def test_forward_pass_changes_no_state(cls, kwargs, in_shape):
  layer = trained(cls, **kwargs, mask=checkerboard_mask(cls, kwargs))
  graphdef_before, state = nnx.split(layer)
  before = jax.tree.map(np.array, nnx.to_pure_dict(state))
  layer(random(*in_shape))
  graphdef_after, state = nnx.split(layer)
  assert graphdef_after == graphdef_before
  jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(state), before)


@for_each_kind
@pytest.mark.parametrize('use_bias', [True, False])
def test_variables_are_kernel_scale_and_bias(cls, kwargs, in_shape, use_bias):
  layer = cls(**kwargs, use_bias=use_bias, rngs=nnx.Rngs(0))
  names = {'kernel', 'scale', 'bias'} if use_bias else {'kernel', 'scale'}
  assert set(nnx.state(layer)) == set(nnx.state(layer, nnx.Param)) == names


@pytest.fixture
def mesh():
  mesh = jax.make_mesh((1,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    yield mesh


@pytest.mark.parametrize(
  ('cls', 'transpose_kernel', 'partition', 'expected'),
  [
    (wn.Linear, False, (None, 'model'), ('model',)),
    (wn.Linear, False, ('model', None), (None,)),
    (wn.Conv, False, (None, None, None, 'model'), ('model',)),
    (wn.Conv, False, (None, None, 'model'), (None,)),
    (wn.ConvTranspose, False, (None, None, None, 'model'), ('model',)),
    (wn.ConvTranspose, False, (None, None, 'model', None), (None,)),
    (wn.ConvTranspose, True, (None, None, 'model', None), ('model',)),
    (wn.ConvTranspose, True, (None, None, 'model'), ('model',)),
    (wn.ConvTranspose, True, (None, None, None, 'model'), (None,)),
  ],
)
def test_scale_inherits_the_partitioning_of_the_units(
  mesh, cls, transpose_kernel, partition, expected
):
  init = nnx.with_partitioning(nnx.initializers.lecun_normal(), partition)
  kwargs = {} if cls is wn.Linear else dict(kernel_size=(3, 2))
  kwargs |= dict(transpose_kernel=True) if transpose_kernel else {}
  layer = cls(4, 6, **kwargs, kernel_init=init, rngs=nnx.Rngs(0))
  assert layer.kernel.get_metadata('out_sharding') == partition
  assert layer.scale.get_metadata('out_sharding') == expected
  assert layer.scale[...].sharding.spec == jax.sharding.PartitionSpec(*expected)


def test_scale_metadata_overrides_the_inherited_partitioning(mesh):
  init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, 'model'))
  metadata = {'out_sharding': (None,), 'note': 'mine'}
  layer = wn.Linear(4, 3, kernel_init=init, scale_metadata=metadata, rngs=nnx.Rngs(0))
  assert layer.scale.get_metadata('out_sharding') == (None,)
  assert layer.scale.get_metadata('note') == 'mine'


# Training. flax's own WeightNorm never trains g and overwrites v (google/flax #5576, #5577).


def sgd_step(layer, names, x, target, lr):
  """One step on the named parameters; returns the loss before it."""
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  loss = lambda params: jnp.mean((nnx.merge(graphdef, params, rest)(x) - target) ** 2)
  value, grads = jax.value_and_grad(loss)(params)
  for name in names:
    getattr(layer, name)[...] -= lr * grads[name][...]
  return float(value)


@for_each_kind
@pytest.mark.parametrize('log_scale', [False, True])
def test_training_the_scale_alone_changes_the_function(cls, kwargs, in_shape, log_scale):
  layer = cls(**kwargs, log_scale=log_scale, rngs=nnx.Rngs(0))
  kernel = np.array(layer.kernel[...])
  x = random(*in_shape)
  y = layer(x)
  target = random(*y.shape, seed=1)
  losses = [sgd_step(layer, ['scale'], x, target, lr=0.1) for _ in range(4)]
  assert all(later < earlier for earlier, later in pairwise(losses))
  np.testing.assert_array_equal(layer.kernel[...], kernel)
  y, new_y = f64(y).reshape(-1, 6), f64(layer(x)).reshape(-1, 6)
  factor = np.sum(new_y * y, 0) / np.sum(y**2, 0)  # each unit by its own
  assert np.abs(factor - 1).min() > 1e-3
  assert_close(new_y, factor * y)


def test_norm_of_v_grows_under_gradient_descent():
  """§2.1: v·∇v = 0, so that every step of plain SGD lengthens v."""
  layer = wn.Linear(4, 3, rngs=nnx.Rngs(0))
  x, target = random(8, 4), random(8, 3, seed=1)
  norms = []
  for _ in range(5):
    norms.append(np.linalg.norm(f64(layer.kernel), axis=0))
    sgd_step(layer, ['kernel', 'scale', 'bias'], x, target, lr=0.5)
  assert (np.diff(norms, axis=0) > 0).all()
