"""Plain or weight-normalized layers: the choice between `nnx` and `wn` for all experiments."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype

import wn

LIBRARIES = {'plain': nnx, 'wn': wn}
DTYPES = ('float32', 'bfloat16')  # that a config can choose


class Layers:
  """Constructors of layers of one kind, which take the arguments of their `nnx` namesakes.

  With the same random stream, plain and weight-normalized layers start as the same function.

  Args:
    parameterization: 'plain' or 'wn'.
    init_std: standard deviation of v, and of plain weights.
    log_scale: c, where weight-normalized layers have g = exp(c s); 0: they have g itself.
    dtype: of the products, unless a layer is given another; None: that of the parameters.
    rngs: random streams; uses `params`.
  """

  def __init__(
    self,
    parameterization: str,
    *,
    init_std: float,
    log_scale: float = 0.0,
    dtype: Dtype | None = None,
    rngs: nnx.Rngs,
  ):
    library = LIBRARIES[parameterization]
    self._is_normalized = library is wn
    common: dict[str, Any] = {
      'kernel_init': nnx.initializers.normal(init_std),
      'dtype': None if dtype is None else jnp.dtype(dtype),
      'promote_dtype': promote_all_but_bias,
      'rngs': rngs,
    }
    self._cell_arguments = {**common, 'recurrent_kernel_init': common['kernel_init']}
    common |= {'log_scale': log_scale} if self._is_normalized else {}
    make: Callable[..., Any] = functools.partial
    self.linear = make(library.Linear, **common)
    self.masked_linear = make(wn.Linear if self._is_normalized else wn.MaskedLinear, **common)
    self.conv = make(library.Conv, **common)
    self.conv_transpose = make(library.ConvTranspose, **common)

  def cell(self, kind: type[nnx.Module], *args: Any, **kwargs: Any) -> nnx.Module:
    """A recurrent cell such as `nnx.LSTMCell`, whose layers are of this kind."""
    cell = kind(*args, **{**self._cell_arguments, **kwargs})
    return wn.unfold(cell) if self._is_normalized else cell


def set_scales(model: nnx.Module, g: float) -> None:
  """Sets g of all units of a model's weight-normalized layers."""
  for _, layer in nnx.iter_modules(model):
    if isinstance(layer, wn.WeightNormed):
      layer.set_scale(jnp.full_like(layer.get_scale(), g))


def promote_all_but_bias(arrays: tuple, dtype: Dtype | None) -> tuple[Any, ...]:
  """A layer's `promote_dtype` that casts input and kernel, but leaves the bias in float32.

  The gradient of the bias is a sum over positions and examples, which XLA:CPU takes in the dtype of
  the bias: in bfloat16 a sum of ones ends at 256. With a bias the layer's output is float32: a
  product in bfloat16, summed in float32 and rounded, plus the bias.
  """
  *operands, bias = arrays
  return *dtypes.promote_dtype(operands, dtype=dtype), bias
