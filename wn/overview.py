"""A table of a model's weights."""

import dataclasses
from typing import Any

from flax import nnx

from wn import base, convert
from wn.base import WeightNormed
from wn.wrapper import WeightNorm

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class _Row:
  name: str
  kind: str
  shape: str
  g: str


def summary(model: nnx.Module) -> str:
  """A table of a model's weights: which are normalized, over what, and which are not.

  Lists all layers that `wn` knows, and all parameters of other modules with two or more axes. A
  weight that several layers share is listed once.

  Example::

    print(wn.summary(model))
  """
  rows = [_Row('weight', 'layer', 'shape', 'g')]
  counted: set[int] = set()
  for path, module in sorted(nnx.iter_modules(model), key=lambda item: str(item[0])):
    if isinstance(module, WeightNorm):
      for name, scale in module.scales.items():
        rows.append(_row((*path, 'module'), name, module.variable(name), scale, 'wn.WeightNorm'))
        counted |= {id(module.variable(name)), id(scale)}
  for path, module in sorted(nnx.iter_modules(model), key=lambda item: str(item[0])):
    if isinstance(module, convert.LAYERS) and id(base.kernel_of(module)) not in counted:
      kernel = base.kernel_of(module)
      scale = module.scale if isinstance(module, WeightNormed) else None
      library = 'wn.' if scale is not None else ''
      kind = library + type(module).__name__
      rows.append(_row(path, base.kernel_name(module), kernel, scale, kind))
      counted |= {id(kernel), id(scale), id(getattr(module, 'bias', None))}
  for path, variable in nnx.iter_graph(model):
    is_other = isinstance(variable, nnx.Param) and id(variable) not in counted
    if is_other and getattr(variable.get_value(), 'ndim', 0) >= 2:
      rows.append(_row(path[:-1], str(path[-1]), variable, None, 'parameter'))
  widths = [max(len(getattr(row, f.name)) for row in rows) for f in dataclasses.fields(_Row)]
  return '\n'.join(
    '  '.join(
      text.ljust(width) for text, width in zip(dataclasses.astuple(row), widths, strict=True)
    ).rstrip()
    for row in rows
  )


def _row(path: Path, name: str, kernel: Any, scale: Any, kind: str) -> _Row:
  g = 'not normalized' if scale is None else str(list(scale.shape))
  return _Row('.'.join(map(str, (*path, name))), kind, str(list(kernel.shape)), g)
