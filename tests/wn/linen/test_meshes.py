"""`wn.linen` with parameters in `nn.Partitioned` boxes, on a mesh."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import AxisType

import wn.linen
from tests.wn.comparisons import assert_close, assert_same, random
from tests.wn.linen.models import assert_moments, for_each_library, shapes


def partitioned(library, **kwargs):
  """Two layers whose kernels have names of axes."""
  normal = nn.initializers.lecun_normal()
  names = ((None, 'model'), ('model', None))
  return nn.Sequential(
    [
      library.Dense(n, kernel_init=nn.with_partitioning(normal, axes, **kwargs))
      for n, axes in zip((5, 3), names)
    ]
  )


@pytest.mark.parametrize('own_mesh', [False, True], ids=['set_mesh', 'with_partitioning'])
@for_each_library
def test_layers_are_initialized(library, own_mesh):
  mesh = jax.make_mesh((1,), ('model',), axis_types=(AxisType.Auto,))
  model, x = partitioned(library, mesh=mesh if own_mesh else None), random(50, 4)
  with jax.set_mesh(mesh):
    variables = model.init(jax.random.key(0), x)
    eager = wn.linen.data_dependent_init(model, variables, x)
    jitted = jax.jit(lambda v: wn.linen.data_dependent_init(model, v, x))(variables)
    for new in (eager, jitted):
      assert jax.tree.structure(new) == jax.tree.structure(variables)
      assert_moments(model.apply(new, x), 0, 1)


def test_the_kernel_of_a_rewriter_is_left_alone_with_a_warning():
  mesh = jax.make_mesh((1,), ('model',), axis_types=(AxisType.Auto,))
  model, x = nn.WeightNorm(partitioned(nn)), random(50, 4)
  with jax.set_mesh(mesh):
    variables = model.init(jax.random.key(0), x)
    with pytest.warns(UserWarning, match=r'not initialized: .*layers_0 \(.*layers_1 \('):
      new = wn.linen.data_dependent_init(model, variables, x)
  assert_same(new, variables)


def test_fold_and_unfold_keep_the_boxes():
  mesh = jax.make_mesh((1,), ('model',), axis_types=(AxisType.Auto,))
  model, plain_model, x = partitioned(wn.linen), partitioned(nn), random(50, 4)
  with jax.set_mesh(mesh):
    variables = model.init(jax.random.key(0), x)
    plain = wn.linen.fold(model, variables, x)
    assert jax.tree.structure(plain) == jax.tree.structure(plain_model.init(jax.random.key(0), x))
    assert_close(plain_model.apply(plain, x), model.apply(variables, x))
    again = wn.linen.unfold(model, plain, x)
    assert shapes(again) == shapes(variables)
    np.testing.assert_allclose(model.apply(again, x), model.apply(variables, x), rtol=1e-5)
