"""Keyword arguments of the `nnx` layers, for editors and type checkers (PEP 692)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from flax.typing import (
  ConvGeneralDilatedT,
  DotGeneralT,
  Dtype,
  EinsumT,
  Initializer,
  PaddingLike,
  PrecisionLike,
  PromoteDtypeFn,
)

Metadata = Mapping[str, Any]
Window = int | Sequence[int] | None


class Common(TypedDict, total=False):
  """Arguments of all layers with a kernel and a bias."""

  dtype: Dtype | None
  param_dtype: Dtype
  precision: PrecisionLike
  kernel_init: Initializer
  bias_init: Initializer
  promote_dtype: PromoteDtypeFn
  preferred_element_type: Dtype | None
  kernel_metadata: Metadata
  bias_metadata: Metadata


class Linear(Common, total=False):
  """Arguments of `nnx.Linear`."""

  use_bias: bool
  dot_general: DotGeneralT


class Conv(Common, total=False):
  """Arguments of `nnx.Conv`."""

  padding: PaddingLike
  input_dilation: Window
  kernel_dilation: Window
  feature_group_count: int
  use_bias: bool
  conv_general_dilated: ConvGeneralDilatedT


class ConvTranspose(Common, total=False):
  """Arguments of `nnx.ConvTranspose`."""

  padding: PaddingLike
  kernel_dilation: Window
  use_bias: bool
  transpose_kernel: bool


class LinearGeneral(Common, total=False):
  """Arguments of `nnx.LinearGeneral`."""

  axis: int | Sequence[int]
  batch_axis: Mapping[int, int]
  use_bias: bool
  dot_general: DotGeneralT | None
  dot_general_cls: Any


class Einsum(Common, total=False):
  """Arguments of `nnx.Einsum`."""

  einsum_op: EinsumT


class Embed(TypedDict, total=False):
  """Arguments of `nnx.Embed`."""

  dtype: Dtype | None
  param_dtype: Dtype
  embedding_init: Initializer
  promote_dtype: PromoteDtypeFn
  embedding_metadata: Metadata


class Cell(TypedDict, total=False):
  """Arguments of `nnx.LSTMCell` and `nnx.GRUCell`."""

  gate_fn: Callable[..., Any]
  activation_fn: Callable[..., Any]
  kernel_init: Initializer
  recurrent_kernel_init: Initializer
  bias_init: Initializer
  dtype: Dtype | None
  param_dtype: Dtype
  carry_init: Initializer | None
  promote_dtype: PromoteDtypeFn
  keep_rngs: bool
  kernel_metadata: Metadata
  recurrent_kernel_metadata: Metadata
  bias_metadata: Metadata
