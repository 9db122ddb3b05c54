"""Finds, in the code of a model, where it reads the kernels of its layers itself."""

import dis
import functools
import itertools
import types
import warnings
from collections.abc import Iterator
from typing import Any

from flax import nnx

KERNELS = {'kernel', 'embedding'}
_FACTS = {'dtype', 'ndim', 'shape', 'size'}  # the same of v and of w
Chain = tuple[Any, ...]


def names_in(function: Any) -> set[str]:
  """Names of attributes and globals in the code of a function, method or property."""
  return {name for code in _code_of(function) for name in code.co_names}


def mentions_kernel(function: Any) -> bool:
  """Whether a function, method or property reads or sets a kernel, more than its shape or dtype."""
  return any(_mentions(code) for code in _code_of(function))


def kernel_reads(cls: type[nnx.Pytree]) -> list[tuple[str, Chain | None]]:
  """(method, attributes) for every read of another module's kernel in a class outside flax and wn.

  The attributes are ('A', 'B', 0) for `self.A.B[0].kernel`, and None where it cannot be told from
  the code whose kernel it is, as with a local variable. Constructors, which see the kernels before
  they are converted, are left out, as are methods that a subclass overrides without calling them.
  """
  found = []
  overridden = {'__init__'}
  for c in cls.__mro__:
    if c.__module__.split('.')[0] in ('flax', 'wn', 'builtins', 'typing'):
      continue
    for name, value in vars(c).items():
      if name not in overridden:
        chains = [chain for code in _code_of(value) for chain in _reads(code)]
        found += [(f'{c.__qualname__}.{name}', chain) for chain in chains]
    overridden |= {name for name, value in vars(c).items() if 'super' not in names_in(value)}
  return found


def follow(module: nnx.Pytree, chain: Chain | None) -> Any:
  """`module.A.B[0]` for ('A', 'B', 0), or None."""
  if chain is None:
    return None
  value: Any = module
  try:
    for part in chain:
      value = getattr(value, part) if isinstance(part, str) else value[part]
  except (AttributeError, LookupError, TypeError):
    return None
  return value


def layers_read(model: Any) -> dict[int, str]:
  """id(layer) → the method that reads its kernel, where the code tells which layer it is."""
  return {
    id(layer): method
    for node in _objects(model)
    for method, chain in kernel_reads(type(node))
    if (layer := follow(node, chain)) is not None
  }


def warn_of_other_reads(function: str, model: Any) -> None:
  """Warns of methods that read kernels of layers which cannot be told from the code."""
  methods = {
    method
    for node in _objects(model)
    for method, chain in kernel_reads(type(node))
    if chain is None
  }
  if methods:
    warnings.warn(
      f'{function}: {", ".join(sorted(methods))} may read the kernel of a layer, which in a '
      'normalized layer is v. To read its weight use wn.weight(layer).',
      stacklevel=3,
    )


def _objects(model: Any) -> Iterator[nnx.Pytree]:
  """The modules of a model, and its other objects with methods of their own."""
  return (node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Pytree))


@functools.cache
def _reads(code: types.CodeType) -> list[Chain | None]:
  return [
    chain
    for before, instruction in _kernels(code)
    if instruction.opname in ('LOAD_ATTR', 'LOAD_METHOD')
    if (chain := _owner(before)) != ()  # `self.kernel` is the module's own
  ]


@functools.cache
def _mentions(code: types.CodeType) -> bool:
  return bool(_kernels(code))


def _kernels(code: types.CodeType) -> list[tuple[list[dis.Instruction], dis.Instruction]]:
  """The instructions that name a kernel, each with those before it; not `kernel.shape` and such."""
  instructions = [i for i in dis.get_instructions(code) if i.opname not in ('CACHE', 'NOP')]
  return [
    (instructions[:place], instruction)
    for place, (instruction, after) in enumerate(itertools.pairwise(instructions))
    if 'ATTR' in instruction.opname or instruction.opname == 'LOAD_METHOD'
    if instruction.argval in KERNELS and after.argval not in _FACTS
  ]


def _owner(instructions: list[dis.Instruction]) -> Chain | None:
  """('A', 'B', 0) if the instructions end with the evaluation of `self.A.B[0]`, else None."""
  chain: list[Any] = []
  while instructions:
    *instructions, last = instructions
    if last.opname in ('LOAD_ATTR', 'LOAD_METHOD'):
      chain.insert(0, last.argval)
    elif last.opname == 'BINARY_SUBSCR' or (last.opname == 'BINARY_OP' and last.argrepr == '[]'):
      if not instructions or instructions[-1].opname not in ('LOAD_CONST', 'LOAD_SMALL_INT'):
        return None
      *instructions, index = instructions
      chain.insert(0, index.argval)
    else:
      # Python 3.13 has instructions that load two variables.
      loaded = last.argval[-1] if isinstance(last.argval, tuple) else last.argval
      is_load = 'LOAD_FAST' in last.opname or last.opname == 'LOAD_DEREF'
      return tuple(chain) if is_load and loaded == 'self' else None
  return None


def _code_of(value: Any) -> Iterator[types.CodeType]:
  """The code objects of a function, method, property or decorated function, with nested ones."""
  if isinstance(value, property):
    for function in (value.fget, value.fset):
      yield from _code_of(function)
    return
  code = getattr(value, '__code__', None)
  if isinstance(code, types.CodeType):
    yield from _nested(code)
  if isinstance(value, staticmethod | classmethod):
    yield from _code_of(value.__func__)
  elif not isinstance(value, type) and hasattr(value, '__wrapped__'):
    yield from _code_of(value.__wrapped__)
  if isinstance(value, functools.cached_property | functools.partial | functools.partialmethod):
    yield from _code_of(value.func)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
  yield code
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _nested(constant)
