"""Weight normalization of any parameter of any module."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx

from wn import base, scales
from wn.normalization import UnitAxis, norm_axes, weight_norm


class WeightNorm(nnx.Module):
  """Normalizes parameters of a module that is not a layer of `nnx`: w = (g/‖v‖) v for each.

  The module's parameters hold v, `scales` holds g. A call runs the module's forward pass on w.
  Unlike `nnx.WeightNorm` it trains g, starts at g = ‖v‖, and writes nothing in the forward pass.

  Example::

    cell = wn.WeightNorm(MyCell(64, rngs=rngs), ('w_x', 'w_h'))
    h = cell(h, x)                            # MyCell.__call__
    h0 = cell.normalized_module().start(16)   # another method

    layer = wn.WeightNorm(nnx.Linear(8, 4, rngs=rngs), 'kernel')  # was nnx.WeightNorm(…, rngs=rngs)

  Args:
    module: any module.
    names: parameters to normalize: an attribute or several, 'block.kernel' for one of a submodule.
    unit_axis: axis or axes of the parameters that index units, or None; as in `wn.weight_norm`.
    log_scale: if c > 0, `scales` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of the scales, in addition to that of their parameters.

  Raises:
    AttributeError: the module has no such parameter.
    ValueError: `unit_axis` does not suit a parameter, `log_scale` is negative or not finite, two
      names are of one parameter, or a parameter has hooks or a type that may change its value where
      it is read or set.
  """

  def __init__(
    self,
    module: nnx.Module,
    names: str | Sequence[str],
    *,
    unit_axis: UnitAxis = -1,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = MappingProxyType({}),
  ):
    self.module = module
    self.names = (names,) if isinstance(names, str) else tuple(names)
    self.unit_axis = unit_axis
    self.log_scale = scales.log_factor(log_scale)
    by_name = {}
    name_of: dict[int, str] = {}
    for name in self.names:
      v = self.variable(name)
      if (other := name_of.setdefault(id(v), name)) != name:
        raise ValueError(f'{other} and {name} are one parameter; give one of the names.')
      if base.is_computed(v):
        raise ValueError(f'{name} has hooks or a type of its own, which may change its value.')
      g, start = scales.start_at(v[...], unit_axis, self.log_scale, name)
      base.assign(v, start)
      other_axes = norm_axes(v[...].ndim, unit_axis)
      axes = tuple(axis for axis in range(v[...].ndim) if axis not in other_axes)
      by_name[name] = scales.new_scale(v, g, axes, self.log_scale, scale_metadata)
    self.scales = nnx.Dict(by_name)

  def variable(self, name: str) -> nnx.Variable:
    """The parameter v of a name such as 'kernel' or 'block.kernel'."""
    value = self.module
    for part in name.split('.'):
      value = getattr(value, part)
    if not isinstance(value, nnx.Variable):
      raise AttributeError(f'{name} of {type(self.module).__name__} is not a parameter.')
    return value

  def normalized_kernel(self, name: str) -> jax.Array:
    """w = (g/‖v‖) v of a parameter, in its dtype."""
    v = self.variable(name)[...]
    g = scales.read_scale(self.scales[name], self.log_scale)
    units = () if self.unit_axis is None else self.unit_axis
    units = units if isinstance(units, tuple) else (units,)
    stack = g.ndim - len(units)  # axes of a stack of modules (`nnx.vmap`)
    units = (*range(stack), *(axis + stack if axis >= 0 else axis for axis in units))
    return weight_norm(v, g, unit_axis=units).astype(v.dtype)

  def normalized_module(self) -> nnx.Module:
    """A copy of the module with w in place of v everywhere; it shares all else with the module."""
    return self._viewed({})

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """The module's forward pass, on w. Attributes that it sets, as `sow` does, are kept."""
    views: dict[int, tuple[Any, Any]] = {}
    module = self._viewed(views)
    before = [
      (old, new, dict(vars(new)))
      for old, new in views.values()
      if new is not old and isinstance(new, nnx.Pytree)
    ]
    y = module(*args, **kwargs)
    for old, new, attributes in before:
      for name, value in vars(new).items():
        if not name.startswith('_pytree__') and attributes.get(name) is not value:
          setattr(old, name, value)
    return y

  def _viewed(self, views: dict[int, tuple[Any, Any]]) -> nnx.Module:
    weights = {}
    for name in self.names:
      v = self.variable(name)
      weights[id(v)] = v.replace(self.normalized_kernel(name))
    return _view(self.module, weights, views)


def _view(node: Any, weights: Mapping[int, nnx.Variable], views: dict[int, tuple[Any, Any]]) -> Any:
  """`node` with w for every v, copying only the modules and containers that hold one.

  Args:
    node: a module or an attribute of one.
    weights: w by id(v).
    views: (node, its copy or itself) by id(node); filled.
  """
  if isinstance(node, nnx.Variable):
    return weights.get(id(node), node)
  if id(node) not in views:
    views[id(node)] = node, node  # where a module holds its parent
    if not isinstance(node, nnx.Pytree):
      view = base.map_children(lambda child: _view(child, weights, views), node)
      views[id(node)] = node, view
      return view
    new = {name: _view(value, weights, views) for name, value in vars(node).items()}
    new = {name: value for name, value in new.items() if value is not getattr(node, name)}
    if new:
      views[id(node)] = node, base.replace(node, **new)
  return views[id(node)][1]
