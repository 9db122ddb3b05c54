"""The arrays of a PyTorch module, and the layout of PyTorch's kernels.

Of `wn.torch`: a slot is one parameter of a PyTorch module for which a model has a place: a vector,
or a weight in any of its forms (`wn.torch_weights`). It reads its arrays from a `Source`, tells by
`Write`s how to write them, and emits them. `wn.torch_modules` lists the slots of a model.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from wn import base


def join(*names: str) -> str:
  """'a.b' of names that may be empty."""
  return '.'.join(name for name in names if name)


@dataclasses.dataclass(frozen=True)
class Entry:
  """An array of a state dict and its key there."""

  key: str
  array: np.ndarray


@dataclasses.dataclass(frozen=True)
class Write:
  """A variable of the model, the value it is to have, and the function that writes it."""

  variable: nnx.Variable
  value: np.ndarray
  apply: Callable[[], None]


@dataclasses.dataclass
class Source:
  """The arrays of one PyTorch module, by leaf ('weight_g'); `take` removes what a slot has read.

  Attributes:
    module: the module's name in PyTorch.
    leaves: the arrays that are left.
    problems: what is wrong, one line each.
  """

  module: str
  leaves: dict[str, Entry]
  problems: list[str]

  def take(
    self, leaf: str, shape: tuple[int, ...], owner: str, own_shape: tuple[int, ...]
  ) -> np.ndarray | None:
    """The array of a leaf, if it is there and has the shape; otherwise notes the problem."""
    entry = self.leaves.pop(leaf, None)
    needed = f'{owner} {own_shape} needs {shape}'
    if entry is None:
      self.problems.append(f'{join(self.module, leaf)}: missing; {needed}')
    elif entry.array.shape != shape:
      self.problems.append(f'{entry.key}: has shape {entry.array.shape}; {needed}')
    else:
      return entry.array
    return None


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a kernel is laid out in PyTorch.

  Attributes:
    shape: of the kernel.
    groups: for each axis in PyTorch, the axes of the kernel that make it up.
    flip: whether the window is reversed.
  """

  shape: tuple[int, ...]
  groups: tuple[tuple[int, ...], ...]
  flip: bool = False

  @classmethod
  def of(cls, layer: nnx.Module) -> 'Layout':
    """The layout of the kernel of a layer that `wn` knows."""
    shape = base.kernel_of(layer)[...].shape
    window = tuple((axis,) for axis in range(len(shape) - 2))
    i, o = (len(shape) - 2,), (len(shape) - 1,)
    match layer:
      case nnx.Linear() | nnx.Conv():
        return cls(shape, (o, i, *window))
      case nnx.ConvTranspose() if layer.transpose_kernel:
        return cls(shape, (o, i, *window))  # its last axis indexes inputs, PyTorch's first
      case nnx.ConvTranspose():
        return cls(shape, (i, o, *window), flip=True)
      case nnx.LinearGeneral() if not layer.batch_axis:
        n_in = len(layer.in_features)
        return cls(shape, (tuple(range(n_in, len(shape))), tuple(range(n_in))))
    return cls(shape, tuple((axis,) for axis in range(len(shape))))

  @property
  def torch_shape(self) -> tuple[int, ...]:
    """The shape of the weight in PyTorch."""
    return tuple(math.prod(self.shape[axis] for axis in group) for group in self.groups)

  def to_torch(self, a: np.ndarray) -> np.ndarray:
    """From the kernel's layout to PyTorch's; axes of a g may have size 1."""
    sizes = [math.prod(a.shape[axis] for axis in group) for group in self.groups]
    a = a.transpose([axis for group in self.groups for axis in group]).reshape(sizes)
    return np.flip(a, self._window()) if self.flip else a

  def to_model(self, a: np.ndarray) -> np.ndarray:
    """The reverse of `to_torch`; a g of no axes gets axes of size 1."""
    a = a.reshape((1,) * len(self.groups)) if a.ndim == 0 else a
    a = np.flip(a, self._window()) if self.flip else a
    order = [axis for group in self.groups for axis in group]
    whole = [size != 1 for size, group in zip(a.shape, self.groups) for _ in group]
    a = a.reshape([self.shape[axis] if is_whole else 1 for axis, is_whole in zip(order, whole)])
    return a.transpose(np.argsort(order))

  def _window(self) -> tuple[int, ...]:
    return tuple(range(2, len(self.groups)))


@dataclasses.dataclass(frozen=True)
class Vector:
  """A bias, a scale of a normalization layer, or any other parameter with a layout of its own.

  Attributes:
    path: the module's path in the model.
    name: its name in PyTorch.
    attribute: the variable's path in the model.
    variable: the variable.
    shape: its shape in PyTorch.
  """

  path: str
  name: str
  attribute: str
  variable: nnx.Variable
  shape: tuple[int, ...]

  @property
  def variables(self) -> list[nnx.Variable]:
    """All variables of the model that it stands for."""
    return [self.variable]

  def load(self, source: Source) -> list[Write]:
    """What to write for the arrays in `source`."""
    own_shape = self.variable[...].shape
    value = source.take(self.name, self.shape, self.attribute, own_shape)
    return [] if value is None else [write(self.variable, value.reshape(own_shape))]

  def emit(self, style: str) -> dict[str, np.ndarray]:
    """The array by leaf, as PyTorch has it."""
    del style
    return {self.name: to_numpy(self.variable[...]).reshape(self.shape)}


def write(variable: nnx.Variable, value: np.ndarray) -> Write:
  """Sets a variable to a value of its shape."""
  return Write(variable, value, lambda: assign(variable, value))


def assign(variable: nnx.Variable, value: np.ndarray) -> None:
  """Sets a variable, keeping its dtype and where it is."""
  base.assign(variable, on_device(variable, value))


def on_device(variable: nnx.Variable, value: np.ndarray) -> jax.Array:
  """The value, placed as the variable is."""
  old = variable[...]
  return jax.device_put(value, old.sharding if old.shape == value.shape else None)


def stack(arrays: list[np.ndarray]) -> np.ndarray:
  """The arrays one below the other; one alone keeps its shape."""
  return np.array(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)


def to_numpy(a: Any) -> np.ndarray:
  """A NumPy array of a dtype that PyTorch takes."""
  a = np.asarray(a)
  return a if a.dtype.kind in 'biufc' else a.astype(np.float32)
