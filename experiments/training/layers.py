"""Layers in bfloat16 whose parameters, and the sums of their gradients, stay float32."""

from typing import Any

from flax.nnx.nn import dtypes
from flax.typing import Dtype

DTYPES = ('float32', 'bfloat16')  # what a config can choose from


def promote_all_but_bias(arrays: tuple, dtype: Dtype | None) -> tuple[Any, ...]:
  """As nnx casts the arrays of a layer before it computes; the bias stays float32.

  Its gradient is a sum over positions and examples, which XLA:CPU takes in the dtype of the bias:
  in bfloat16 a sum of ones ends at 256. The result of such a layer is float32: a product in
  bfloat16, summed in float32 and rounded, plus the bias.

  Args:
    arrays: input, kernel and bias or None, as a layer's `promote_dtype` gets them.
    dtype: of the layer; None: that of the input and the kernel.
  """
  *operands, bias = arrays
  return *dtypes.promote_dtype(operands, dtype=dtype), bias
