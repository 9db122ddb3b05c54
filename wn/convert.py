"""Converts a plain layer to its weight-normalized namesake, in place, and back.

A weight-normalized layer is its `nnx` namesake plus `scale`, `unit_axis` and `log_scale`.
Conversion changes only these attributes and the object's class, so references to the layer and its
other parameters stay valid.
"""

import functools
from collections.abc import Iterator
from typing import Any, Literal

from flax import nnx

from wn import base, inspection, layers, scales
from wn.axes import Layer
from wn.base import WeightNormed
from wn.normalization import UnitAxis
from wn.wrapper import WeightNorm

_NORMALIZED: dict[type[nnx.Module], type[nnx.Module]] = {
  nnx.Linear: layers.Linear,
  layers.MaskedLinear: layers.Linear,
  nnx.Conv: layers.Conv,
  nnx.ConvTranspose: layers.ConvTranspose,
  nnx.LinearGeneral: layers.LinearGeneral,
  nnx.Einsum: layers.Einsum,
  nnx.Embed: layers.Embed,
}
_PLAIN = {normalized: plain for plain, normalized in _NORMALIZED.items()}
_PLAIN[layers.Linear] = nnx.Linear
LIBRARY_CLASSES = frozenset({*_NORMALIZED, *_PLAIN} - {layers.MaskedLinear})
REWRITERS = (nnx.WeightNorm, nnx.SpectralNorm, WeightNorm)  # compute the kernels of what they hold
LAYERS = (nnx.Linear, nnx.Conv, nnx.ConvTranspose, nnx.LinearGeneral, nnx.Einsum, nnx.Embed)
_MASKED = (nnx.Conv, nnx.ConvTranspose, layers.MaskedLinear)
# What a weight-normalized layer has and a plain one has not; of some, `mask`.
_METHODS = tuple(name for name in vars(WeightNormed) if not name.startswith('__'))
_ADDED = ('scale', 'unit_axis', 'log_scale', 'mask', *_METHODS)


def register(plain: type[nnx.Module], normalized: type[nnx.Module]) -> None:
  """Tells `wn.fold` and `wn.unfold` about a layer with its own forward pass.

  Example::

    class CausalConv(nnx.Conv):
      def __call__(self, x):
        return super().__call__(jnp.pad(x, ((0, 0), (self.kernel_size[0] - 1, 0), (0, 0))))

    class NormalizedCausalConv(CausalConv, wn.Conv):  # super() in CausalConv is now wn.Conv
      pass

    wn.register(CausalConv, NormalizedCausalConv)

  Args:
    plain: subclass of an `nnx` layer.
    normalized: subclass of that layer's `wn` namesake with the same forward pass.

  Raises:
    TypeError: an argument is not such a class, or `normalized` has the forward pass of `plain` in
      a form that does not use w, or is the counterpart of another class.
  """
  namesake = namesake_of(plain)
  if namesake is None or issubclass(plain, WeightNormed):
    raise TypeError(f'plain must be a subclass of an nnx layer; got {plain}.')
  if not issubclass(normalized, _NORMALIZED[namesake]):
    raise TypeError(f'normalized must be a subclass of {_NORMALIZED[namesake]}; got {normalized}.')
  for name, cls in (('plain', plain), ('normalized', normalized)):
    if cls in LIBRARY_CLASSES:
      raise TypeError(f'{name} must be a class of your own; got {cls}.')
  other = _PLAIN.get(normalized, plain)
  names = {(cls.__module__, cls.__qualname__) for cls in (plain, other)}
  if len(names) > 1:  # the same where the class statement is run again, as in a notebook
    raise TypeError(f'{normalized} is the counterpart of {other} already; derive a class from it.')
  if is_pytree(plain) != is_pytree(normalized):
    raise TypeError(f'give both {plain} and {normalized} pytree=False, or neither.')
  _check_forward(plain, normalized)
  _NORMALIZED[plain] = normalized
  _PLAIN[normalized] = plain


def _check_forward(plain: type[nnx.Module], normalized: type[nnx.Module]) -> None:
  """Checks that a forward pass which `normalized` has from `plain` computes with w."""
  mro = normalized.__mro__
  layer = next(cls for cls in mro if cls in LIBRARY_CLASSES)
  methods: dict[str, Any] = {}
  for cls in mro[: mro.index(layer)]:
    for name, value in vars(cls).items():
      methods.setdefault(name, (cls, value))
  if '__call__' not in methods:
    if plain in mro and '__call__' in added_methods(plain, namesake_of(plain)):
      raise TypeError(f'name {plain} before {layer} among the bases of {normalized}.')
    return
  used, found = ['__call__'], {'__call__'}
  for name in used:
    cls, method = methods[name]
    if issubclass(plain, cls) and _reads_weight(method):
      raise TypeError(
        f'{cls}.{name} reads the kernel or names its parent, so that {normalized} would compute '
        'with v. Use super() there, or give the latter one with wn.weight(self).'
      )
    used += [other for other in inspection.names_in(method) & methods.keys() - found]
    found.update(used)


def _reads_weight(method: Any) -> bool:
  """Whether a method reads a kernel, itself or by naming a class of the library."""
  names = inspection.names_in(method)
  parents = {cls.__name__ for cls in LIBRARY_CLASSES}
  names_parent = names & parents and names & {'__call__', 'attend'} and 'super' not in names
  return inspection.mentions_kernel(method) or bool(names_parent)


def modules(
  model: nnx.Module,
) -> Iterator[tuple[tuple[Any, ...], nnx.Module, tuple[nnx.Module, ...]]]:
  """(path, module, the modules that hold it) for every module of a model, itself included.

  A module with several names is held by all that have it under any of them.
  """
  holders: dict[int, list[nnx.Module]] = {}
  found = list(nnx.iter_modules(model))
  for _, module in found:
    for path, part in nnx.iter_modules(module):
      if path:
        holders.setdefault(id(part), []).append(module)
  seen: set[int] = set()
  for path, module in found:
    if id(module) not in seen:
      seen.add(id(module))
      yield path, module, tuple(holders.get(id(module), ()))


def namesake_of(cls: type) -> type[nnx.Module] | None:
  """The class of `nnx` that a layer's class extends, or None."""
  return next((layer for layer in LAYERS if issubclass(cls, layer)), None)


def normalized_class(cls: type[nnx.Module]) -> type[nnx.Module] | None:
  """The weight-normalized counterpart of a class of plain layers, or None if it is not known.

  A subclass that only adds to its parent, without a forward pass of its own, has one, too.
  """
  parent = next((c for c in cls.__mro__ if c in _NORMALIZED), None)
  if parent is cls or parent is None:
    return _NORMALIZED.get(cls)
  normalized = _NORMALIZED[parent]
  if (
    issubclass(cls, WeightNormed) or own_methods(cls, parent) or not issubclass(normalized, parent)
  ):
    return None
  return _derived(cls, normalized)


@functools.cache
def _derived(cls: type[nnx.Module], normalized: type[nnx.Module]) -> type[nnx.Module]:
  """`cls` with the forward pass of `normalized`."""
  names = {'__module__': cls.__module__, '__qualname__': cls.__qualname__, '__doc__': cls.__doc__}
  # The class has no name of its own to be pickled by.
  names['__reduce_ex__'] = lambda self, protocol: (
    _blank,
    (cls,),
    *object.__reduce_ex__(self, protocol)[2:],
  )
  derived = type(cls.__name__, (cls, normalized), names, **class_options(cls))
  _PLAIN[derived] = cls
  return derived


def is_pytree(cls: type[nnx.Module]) -> bool:
  """Whether a class is a pytree of JAX; not if it was made with `pytree=False`."""
  return cls._pytree__is_pytree


def class_options(cls: type[nnx.Module]) -> dict[str, bool]:
  """Keyword arguments for the statement of a class derived from `cls`, so that it is like it.

  None where they are flax's default, as a user's `__init_subclass__` may not accept them.
  """
  return {} if is_pytree(cls) == is_pytree(nnx.Module) else {'pytree': is_pytree(cls)}


def pytree_conflict(cls: type[nnx.Module]) -> str:
  """Why an object of a `wn` layer's class cannot become one of its plain counterpart, or ''.

  As a pytree it would lose the parameters that it was given while it was none.
  """
  plain = plain_class(cls)
  if plain is None or is_pytree(cls) == is_pytree(plain):
    return ''
  own, other = ('a', 'none') if is_pytree(cls) else ('no', 'one')
  return (
    f'{cls.__qualname__} is {own} pytree, and {plain.__name__} is {other}. Name a plain '
    'counterpart that is like it: wn.register(plain, normalized)'
  )


def _blank(plain: type[nnx.Module]) -> nnx.Module:
  """An instance of the normalized counterpart of a class, without attributes: for unpickling."""
  normalized = normalized_class(plain)
  assert normalized is not None
  return object.__new__(normalized)


def plain_class(cls: type[nnx.Module]) -> type[nnx.Module] | None:
  """The plain counterpart of a class of weight-normalized layers, or None if it is not known."""
  parent = next((c for c in cls.__mro__ if c in _PLAIN), None)
  if parent is None:
    return None
  if parent is not cls and (own_methods(cls, parent) or 'attend' in added_methods(cls, parent)):
    return None
  return _PLAIN[parent]


def own_methods(cls: type[nnx.Module], parent: type[nnx.Module]) -> list[str]:
  """Methods of a subclass that may compute something else from the kernel than its parent."""
  classes = cls.__mro__[: cls.__mro__.index(parent)]
  return [
    name
    for c in classes
    for name, value in vars(c).items()
    if name == '__call__' or (name != '__init__' and _reads_weight(value))
  ]


def added_methods(cls: type[nnx.Module], parent: Any) -> list[str]:
  """Methods that a subclass adds or overrides, but for its constructor."""
  return [
    name
    for c in cls.__mro__[: cls.__mro__.index(parent)]
    for name, value in vars(c).items()
    if (callable(value) or isinstance(value, property | staticmethod | classmethod))
    and (name == '__call__' or not name.startswith(('__', '_pytree__')))
  ]


def own_attribute(layer: Layer) -> str | None:
  """An attribute of a plain layer that a weight-normalized one uses for something else, or None."""
  cls = type(layer)
  for name in _ADDED:
    if name == 'mask' and _applies_mask(cls):
      continue
    if name in vars(layer) or hasattr(cls, name):
      return name
  return None


def _applies_mask(cls: type[nnx.Module]) -> bool:
  """Whether `mask` is that of the kernel: also of classes whose own forward pass may read it."""
  own = cls.__mro__[: cls.__mro__.index(namesake_of(cls))]
  methods = [value for c in own for name, value in vars(c).items() if name != '__init__']
  has_forward = any('__call__' in vars(c) for c in own)
  reads = any('mask' in inspection.names_in(method) for method in methods)
  return issubclass(cls, _MASKED) or (has_forward and reads)


def normalize_layer(
  layer: Layer,
  *,
  unit_axis: UnitAxis | Literal['output'] = 'output',
  log_scale: bool | float = False,
) -> None:
  """Makes a plain layer weight-normalized, in place: v = w, g = ‖w‖.

  Args:
    layer: a layer whose class has a `normalized_class`.
    unit_axis: as in the constructors of `wn.layers`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.

  Raises:
    ValueError: an argument is wrong; the layer is unchanged.
  """
  plain = type(layer)
  log_scale = scales.log_factor(log_scale)
  set_class(layer, normalized_class(plain))
  try:
    if issubclass(plain, nnx.Linear) and not hasattr(layer, 'mask'):
      layer.mask = nnx.data(None)
    layer._create_scale(unit_axis, log_scale, {})
  except ValueError:
    set_class(layer, plain)
    raise


def plain_layer(layer: Layer, folded: dict[tuple[Any, ...], nnx.Variable]) -> None:
  """Makes a weight-normalized layer plain, in place: kernel = w. A mask stays where it is.

  `folded` has the kernels of the layers so far, for those that share all that w is made of; filled.
  """
  # A new variable, as another layer may share the old one and have its own g.
  name, v = base.kernel_name(layer), base.kernel_of(layer)
  parts = (v, layer.scale, getattr(layer, 'mask', None))
  key = (*map(id, parts), layer.unit_axis, layer.log_scale, layer.dtype)
  if key not in folded:
    folded[key] = v.replace(layer.normalized_kernel())
  setattr(layer, name, folded[key])
  plain = plain_class(type(layer))
  assert plain is not None
  del layer.scale, layer.log_scale, layer.unit_axis
  if issubclass(plain, nnx.Linear):
    if layer.mask is None:
      del layer.mask
    elif plain is nnx.Linear:
      plain = layers.MaskedLinear
  set_class(layer, plain)


def set_class(module: nnx.Module, cls: Any) -> None:
  """Sets `module.__class__`, bypassing nnx's `__setattr__`, which would add an attribute."""
  object.__setattr__(module, '__class__', cls)
