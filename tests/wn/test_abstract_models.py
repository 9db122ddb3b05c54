"""Models of `nnx.eval_shape`, whose parameters are shapes without values."""

import re

import jax.numpy as jnp
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import random


def create():
  rngs = nnx.Rngs(0)
  return nnx.Sequential(wn.Conv(4, 5, (3,), rngs=rngs), nnx.Linear(5, 3, rngs=rngs))


CALLS = {
  'wn.torch.load_state_dict': lambda m: wn.torch.load_state_dict(m, wn.torch.state_dict(create())),
  'wn.torch.state_dict': wn.torch.state_dict,
  'wn.data_dependent_init': lambda model: wn.data_dependent_init(model, random(8, 6, 4)),
  'wn.data_dependent_init of a plain layer': lambda model: wn.data_dependent_init(
    nnx.eval_shape(lambda: nnx.Linear(4, 3, rngs=nnx.Rngs(0))), random(8, 4)
  ),
}


@pytest.mark.parametrize('name', CALLS)
def test_what_needs_values_is_an_error_that_names_a_parameter(name):
  match = rf'{re.escape(name.split()[0])}: .*(kernel|bias|scale) is a shape without .*eval_shape'
  with pytest.raises(TypeError, match=match):
    CALLS[name](nnx.eval_shape(create))


def test_initialization_inside_eval_shape():
  def initialized():
    model = create()
    wn.data_dependent_init(model, jnp.ones((8, 6, 4)))
    return model

  shapes, model = nnx.eval_shape(initialized), create()
  assert shapes.layers[0].scale.shape == model.layers[0].scale.shape
