"""Weights of PyTorch models in layers with a mask or `log_scale`."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.test_torch_mismatches import problems_of, random


@pytest.mark.parametrize('cls', [wn.Linear, wn.MaskedLinear, nnx.Conv])
def test_masked_weights_must_be_zero(cls):
  shape, window = ((1, 3, 4), (1,)) if cls is nnx.Conv else ((3, 4), ())
  mask = np.ones(shape, np.float32)
  mask[..., 0, 1] = 0
  model = cls(3, 4, *window, mask=jnp.asarray(mask), rngs=nnx.Rngs(0))
  arrays = {'weight': random(4, 3, *window), 'bias': random(4)}
  (line,) = problems_of(model, arrays)
  assert line == 'weight: 1 weights are not 0 where the mask is, in the model'
  arrays['weight'][1, 0] = 0
  wn.torch.load_state_dict(model, arrays)
  w = np.moveaxis(np.asarray(wn.weight(model)), -1, 0).reshape(4, 3)
  np.testing.assert_allclose(w, arrays['weight'].reshape(4, 3), rtol=1e-6)


def test_units_of_zeros_have_a_norm_in_pytorch():
  mask = jnp.ones((3, 4)).at[:, 2].set(0)
  model = wn.Linear(3, 4, mask=mask, rngs=nnx.Rngs(0))
  arrays = wn.torch.state_dict(model)
  g, v = arrays['weight_g'], arrays['weight_v']
  np.testing.assert_allclose(
    g * v / np.linalg.norm(v, axis=1, keepdims=True), wn.weight(model).T, rtol=1e-6
  )
  wn.torch.load_state_dict(model, arrays)
  assert not wn.weight(model)[:, 2].any()


def test_log_scale_needs_positive_scales():
  model = wn.Linear(3, 4, log_scale=3, rngs=nnx.Rngs(0))
  arrays = {'weight_g': np.abs(random(4, 1)), 'weight_v': random(4, 3), 'bias': random(4)}
  wn.torch.load_state_dict(model, arrays)
  np.testing.assert_allclose(model.get_scale(), arrays['weight_g'][:, 0], rtol=1e-6)
  np.testing.assert_array_equal(model.kernel[...].T, arrays['weight_v'])
  arrays['weight_g'][1] = 0
  (line,) = problems_of(model, arrays)
  assert line.startswith('weight_v: the layer has log_scale') and 'not positive' in line


# MADE: the first output feature sees nothing. Of a convolution: the last.
MADE = np.triu(np.ones((4, 4)), 1)
FULLY_MASKED = {
  'MADE': lambda **kwargs: wn.Linear(4, 4, mask=jnp.asarray(MADE), **kwargs),
  'convolution': lambda **kwargs: wn.Conv(
    3, 2, 5, mask=jnp.ones((5, 3, 2)).at[..., 1].set(0), **kwargs
  ),
  'transposed convolution': lambda **kwargs: wn.ConvTranspose(
    3, 2, 5, mask=jnp.ones((5, 3, 2)).at[:, 0].set(0), unit_axis=-2, **kwargs
  ),
}


@pytest.mark.parametrize('log_scale', [False, 3])
@pytest.mark.parametrize('make', FULLY_MASKED.values(), ids=FULLY_MASKED)
def test_fully_masked_units_come_back(make, log_scale):
  model = make(log_scale=log_scale, rngs=nnx.Rngs(0))
  model.set_scale(model.get_scale() * 2)
  arrays = wn.torch.state_dict(model)
  assert not arrays['weight_g'].all()
  other = make(log_scale=log_scale, rngs=nnx.Rngs(1))
  wn.torch.load_state_dict(other, arrays)
  np.testing.assert_allclose(wn.weight(other), wn.weight(model), rtol=1e-5)
  assert np.isfinite(other.scale[...]).all()
  for key, value in wn.torch.state_dict(other).items():
    np.testing.assert_allclose(value, arrays[key], rtol=1e-5)


def test_log_scale_needs_positive_scales_of_units_that_are_not_masked():
  model = FULLY_MASKED['MADE'](log_scale=3, rngs=nnx.Rngs(0))
  arrays = wn.torch.state_dict(model)
  arrays['weight_g'][2] = 0
  (line,) = problems_of(model, arrays)
  assert line.startswith('weight_v: the layer has log_scale') and 'not positive' in line
