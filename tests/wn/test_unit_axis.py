"""`unit_axis`: which axes have a g of their own, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def f64(x):
  return np.asarray(x).astype(np.float64)


def close(actual, expected, tolerance=1e-5):
  actual, expected = f64(actual), f64(expected)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def units(v, axes):
  """[units, everything else] of a kernel."""
  v = f64(v)
  size = int(np.prod([v.shape[axis] for axis in axes]))
  return np.moveaxis(v, axes, range(len(axes))).reshape(size, -1)


def eq2(v, g, axes):
  """w = g v/‖v‖, unit by unit; `axes` ascending and not negative."""
  v, w = f64(v), np.zeros(v.shape)
  for index in np.ndindex(*(v.shape[axis] for axis in axes)):
    where = [slice(None)] * v.ndim
    for axis, i in zip(axes, index):
      where[axis] = i
    unit = v[tuple(where)]
    w[tuple(where)] = f64(g)[index] * unit / np.sqrt(np.sum(unit**2))
  return w


AXES = [
  (-1, (3,)),
  (0, (0,)),
  (-4, (0,)),
  (2, (2,)),
  ((0, 3), (0, 3)),
  ((-1, 1), (1, 3)),
  ((3, 0, -3), (0, 1, 3)),
  ((0, 1, 2, 3), (0, 1, 2, 3)),
  ((), ()),
  (None, ()),
]


@pytest.mark.parametrize(('unit_axis', 'axes'), AXES, ids=str)
def test_weight_norm_is_eq_2_over_any_axes(unit_axis, axes):
  v = random(2, 3, 4, 5)
  g = random(*(v.shape[axis] for axis in axes), seed=1)
  close(wn.weight_norm(v, g, unit_axis=unit_axis), eq2(v, g, axes))
  norms = np.linalg.norm(units(v, axes), axis=1).reshape(g.shape)
  close(wn.unit_norm(v, unit_axis=unit_axis), norms)


@pytest.mark.parametrize(('unit_axis', 'axes'), AXES, ids=str)
def test_gradients_are_eq_3_over_any_axes(unit_axis, axes):
  v, dw = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=2)
  g = random(*(v.shape[axis] for axis in axes), seed=1)
  loss = lambda v, g: jnp.sum(wn.weight_norm(v, g, unit_axis=unit_axis) * dw)
  dv, dg = jax.grad(loss, (0, 1))(v, g)
  dot = np.sum(units(v, axes) * units(dw, axes), 1)
  norm = np.linalg.norm(units(v, axes), axis=1)
  close(dg, (dot / norm).reshape(g.shape))
  of_units = f64(g).reshape(-1, 1) / norm[:, None]
  expected = of_units * (units(dw, axes) - (dot / norm**2)[:, None] * units(v, axes))
  close(units(dv, axes), expected, 1e-4)
  close(np.sum(units(dv, axes) * units(v, axes), 1), np.zeros(len(norm)), 1e-4)


def layer_of(cls, **kwargs):
  arguments = {
    wn.Linear: (3, 4),
    wn.Conv: (3, 4, (2, 5)),
    wn.ConvTranspose: (3, 4, (2, 5)),
    wn.LinearGeneral: (3, (4, 5)),
    wn.Einsum: ('bni,nio->bno', (3, 2, 4)),
    wn.Embed: (6, 4),
  }[cls]
  return cls(*arguments, rngs=nnx.Rngs(0), **kwargs)


LAYERS = [wn.Linear, wn.Conv, wn.ConvTranspose, wn.LinearGeneral, wn.Einsum, wn.Embed]


@pytest.mark.parametrize('cls', LAYERS)
@pytest.mark.parametrize('unit_axis', [0, -2, (-1, 0), None])
def test_layers_have_one_g_per_index_of_the_axes(cls, unit_axis):
  layer = layer_of(cls, unit_axis=unit_axis)
  name = 'embedding' if cls is wn.Embed else 'kernel'
  v = getattr(layer, name)[...]
  named = () if unit_axis is None else np.atleast_1d(unit_axis)
  axes = sorted(int(axis) % v.ndim for axis in named)
  assert layer.scale.shape == tuple(v.shape[axis] for axis in axes)
  close(layer.scale, np.linalg.norm(units(v, axes), axis=1).reshape(layer.scale.shape))
  close(layer.normalized_kernel(), v)
  layer.scale[...] = random(*layer.scale.shape, seed=3)
  close(layer.normalized_kernel(), eq2(v, layer.scale, axes))
  close(getattr(wn.fold(layer), name), eq2(v, layer.scale, axes))
  assert layer.unit_axis == tuple(axis - v.ndim for axis in axes)


@pytest.mark.parametrize('cls', LAYERS)
@pytest.mark.parametrize('unit_axis', [(-1, 0), None])
def test_unfold_takes_the_axes(cls, unit_axis):
  layer = layer_of(cls, unit_axis=unit_axis)
  again = wn.unfold(wn.fold(layer), unit_axis=unit_axis)
  assert nnx.graphdef(again) == nnx.graphdef(layer)
  close(again.scale, layer.scale)


@pytest.mark.parametrize(
  ('cls', 'shape'),
  [
    (wn.Linear, (4,)),
    (wn.Conv, (4,)),
    (wn.ConvTranspose, (4,)),
    (wn.LinearGeneral, (4, 5)),
    (wn.Einsum, (3, 4)),
    (wn.Embed, (6,)),
  ],
)
def test_default_is_the_axes_of_the_output(cls, shape):
  assert layer_of(cls).scale.shape == shape


@pytest.mark.parametrize('transpose_kernel', [False, True])
def test_transposed_convolution_per_input_channel(transpose_kernel):
  """The `dim=0` of PyTorch, whose kernel is [in, out, *window]."""
  axis = -1 if transpose_kernel else -2
  layer = wn.ConvTranspose(
    3, 5, (4,), 2, transpose_kernel=transpose_kernel, unit_axis=axis, rngs=nnx.Rngs(0)
  )
  assert layer.scale.shape == (3,)
  x = random(2, 6, 3)
  y = layer(x)
  layer.scale[...] = layer.scale[...].at[1].multiply(3)
  close(layer(x), y + 2 * (layer_with_only(layer, 1)(x)) / 3, 1e-4)


@pytest.mark.parametrize('unit_axis', [np.int64(1), (np.int32(-2), 1)], ids=['axis', 'axes'])
def test_axes_may_be_integers_of_numpy(unit_axis):
  plain = jax.tree.map(int, unit_axis)
  v = random(3, 4)
  g = wn.unit_norm(v, unit_axis=unit_axis)
  np.testing.assert_array_equal(g, wn.unit_norm(v, unit_axis=plain))
  close(wn.weight_norm(v, g, unit_axis=unit_axis), v)
  layer = layer_of(wn.Linear, unit_axis=unit_axis)
  assert nnx.graphdef(layer) == nnx.graphdef(layer_of(wn.Linear, unit_axis=plain))
  again = wn.unfold(wn.fold(layer), unit_axis=unit_axis)
  assert nnx.graphdef(again) == nnx.graphdef(layer)
  wrapped = wn.WeightNorm(wn.fold(layer), 'kernel', unit_axis=unit_axis)
  x = random(5, 3)
  close(nnx.jit(lambda layer, x: layer(x))(wrapped, x), layer(x))


def layer_with_only(layer, channel):
  """The layer, with g = 0 for all other input channels."""
  layer = nnx.clone(layer)
  layer.scale[...] = jnp.where(jnp.arange(len(layer.scale)) == channel, layer.scale[...], 0)
  return layer


def test_one_g_per_tap_of_a_convolution():
  layer = wn.Conv(2, 3, 4, padding='VALID', unit_axis=0, use_bias=False, rngs=nnx.Rngs(0))
  assert layer.scale.shape == (4,)
  g = np.array([0.0, 0.0, -2.0, 0.0])
  layer.scale[...] = jnp.asarray(g, jnp.float32)
  x = random(1, 7, 2)
  tap = f64(layer.kernel)[2]
  close(layer(x)[0], f64(x)[0, 2:6] @ (-2 * tap / np.sqrt(np.sum(tap**2))))


def test_axes_as_in_pytorch():
  """torch.nn.utils.weight_norm(Linear, dim=0): its weight is the transpose of ours."""
  weight, g = random(4, 3), random(4, seed=1)  # [out, in]
  expected = f64(g)[:, None] * f64(weight) / np.linalg.norm(f64(weight), axis=1, keepdims=True)
  close(wn.weight_norm(weight, g, unit_axis=0), expected)
  close(wn.weight_norm(weight.T, g, unit_axis=1).T, expected)


WRONG_AXES = [
  ((0, 9), 'out of range'),
  (9, 'out of range'),
  (-5, 'out of range'),
  ((0, 0), 'twice'),
  ((1, -1), 'twice'),
  ('features', 'int, a tuple of ints or None'),
  ('outputs', 'int, a tuple of ints or None'),
  ([0], 'int, a tuple of ints or None'),
  (1.0, 'int, a tuple of ints or None'),
  ((0, None), 'int, a tuple of ints or None'),
]


@pytest.mark.parametrize(('unit_axis', 'message'), WRONG_AXES, ids=str)
def test_wrong_axes_are_errors_that_name_the_argument(unit_axis, message):
  v = random(3, 4)
  with pytest.raises(ValueError, match=f'unit_axis.*{message}'):
    wn.weight_norm(v, jnp.ones(4), unit_axis=unit_axis)
  with pytest.raises(ValueError, match=f'unit_axis.*{message}'):
    wn.Linear(3, 4, unit_axis=unit_axis, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=f'unit_axis.*{message}'):
    wn.Embed(3, 4, unit_axis=unit_axis, rngs=nnx.Rngs(0))
  model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match=f'layers.0: unit_axis.*{message}'):
    wn.unfold(model, unit_axis=unit_axis)


@pytest.mark.parametrize(
  ('shape', 'unit_axis'), [((3, 1), 0), ((1, 4), -1), ((3,), -1), ((), -1), ((1,), None)]
)
def test_scales_of_another_shape_are_errors(shape, unit_axis):
  with pytest.raises(ValueError, match='g must have shape'):
    wn.weight_norm(random(3, 4), jnp.ones(shape), unit_axis=unit_axis)
  layer = wn.Linear(3, 4, unit_axis=unit_axis, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='g must have shape'):
    layer.set_scale(jnp.ones(shape))


def test_complex_scales_are_an_error():
  with pytest.raises(TypeError, match='g must be real'):
    wn.weight_norm(random(3, 4), jnp.ones(4, jnp.complex64))
