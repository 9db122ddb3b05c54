"""Finds, in the code of a model, where it reads or sets the kernels of its layers itself."""

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
_VERBS = {'LOAD_ATTR': 'reads', 'LOAD_METHOD': 'reads', 'STORE_ATTR': 'sets'}  # by instruction
Chain = tuple[Any, ...]


def names_in(function: Any) -> set[str]:
  """Names of attributes and globals in the code of a function, method or property."""
  return {name for code in _code_of(function) for name in code.co_names}


def mentions_kernel(function: Any) -> bool:
  """Whether a function, method or property reads or sets a kernel, more than its shape or dtype."""
  return any(_mentions(code) for code in _code_of(function))


def kernel_uses(cls: type[nnx.Pytree]) -> list[tuple[str, str, Chain | None]]:
  """(method, verb, attributes) for every use of another module's kernel in a user's class.

  The verb is 'reads' or 'sets'. The attributes are ('A', 'B', 0) for `self.A.B[0].kernel`, and None
  where it cannot be told from the code whose kernel it is, as with a local variable. Constructors,
  which see the kernels before they are converted, are left out, as are methods that a subclass
  overrides without calling them.
  """
  found = []
  overridden = {'__init__', '__post_init__'}
  for c in cls.__mro__:
    if c.__module__.split('.')[0] in ('flax', 'wn', 'builtins', 'typing'):
      continue
    for name, value in vars(c).items():
      if name not in overridden:
        for function in _functions(value):
          own = '' if isinstance(value, staticmethod) else _first_argument(function)
          uses = [use for code in _nested(function) for use in _uses(code, own)]
          found += [(f'{c.__qualname__}.{name}', verb, chain) for verb, chain in uses]
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
  except Exception:  # a property of the user's may raise any
    return None
  return value


def layers_used(model: Any) -> dict[int, str]:
  """id(layer) → 'METHOD reads' (or 'sets') its kernel, where the code tells which layer it is."""
  return {
    id(layer): f'{method} {verb}'
    for node in _objects(model)
    for method, verb, chain in kernel_uses(type(node))
    if (layer := follow(node, chain)) is not None
  }


def warn_of_other_uses(function: str, model: Any) -> None:
  """Warns of methods that use kernels of layers which cannot be told from the code."""
  methods = {
    method
    for node in _objects(model)
    for method, _, chain in kernel_uses(type(node))
    if chain is None
  }
  if methods:
    warnings.warn(
      f'{function}: {", ".join(sorted(methods))} may read or set the kernel of a layer, which in a '
      'normalized layer is v. To read its weight use wn.weight(layer).',
      stacklevel=3,
    )


def _objects(model: Any) -> Iterator[nnx.Pytree]:
  """The modules of a model, and its other objects with methods of their own."""
  return (node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Pytree))


@functools.cache
def _uses(code: types.CodeType, own: str) -> list[tuple[str, Chain | None]]:
  """(verb, attributes) of uses of kernels, but for the module's own, `self.kernel`."""
  return [
    (verb, chain)
    for before, instruction in _kernels(code)
    if (verb := _VERBS.get(instruction.opname)) and (chain := _owner(before, own)) != ()
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
    if instruction.argval in KERNELS
    if not (after.opname in ('LOAD_ATTR', 'LOAD_METHOD') and after.argval in _FACTS)
  ]


def _owner(instructions: list[dis.Instruction], own: str) -> Chain | None:
  """('A', 'B', 0) if the instructions end with the evaluation of `self.A.B[0]`, else None.

  `own` is the name of `self`.
  """
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
      return tuple(chain) if is_load and loaded == own else None
  return None


def _first_argument(function: types.CodeType) -> str:
  """The name that a method, and functions inside it, have for `self`; '' if there is none."""
  return function.co_varnames[0] if function.co_argcount else ''


def _code_of(value: Any) -> Iterator[types.CodeType]:
  """The code objects of a function, method, property or decorated function, with nested ones."""
  for function in _functions(value):
    yield from _nested(function)


def _functions(value: Any) -> Iterator[types.CodeType]:
  """The code objects of a function, method, property or decorated function."""
  if isinstance(value, property):
    for function in (value.fget, value.fset):
      yield from _functions(function)
    return
  code = getattr(value, '__code__', None)
  if isinstance(code, types.CodeType):
    yield code
  if isinstance(value, staticmethod | classmethod):
    yield from _functions(value.__func__)
  elif not isinstance(value, type) and hasattr(value, '__wrapped__'):
    yield from _functions(value.__wrapped__)
  if isinstance(value, functools.cached_property | functools.partial | functools.partialmethod):
    yield from _functions(value.func)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
  yield code
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _nested(constant)
