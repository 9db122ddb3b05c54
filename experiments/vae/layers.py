"""Layers in one of the two parameterisations, and the masked ones of autoregressive networks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype

import wn
from experiments.training.layers import promote_all_but_bias


class MaskedLinear(nnx.Linear):
  """`nnx.Linear` with some weights held at zero: the plain sibling of `wn.Linear(mask=...)`.

  Args:
    *args: as `nnx.Linear`.
    mask: 0/1 array of the kernel's shape.
    **kwargs: as `nnx.Linear`.
  """

  def __init__(self, *args, mask: jax.Array, **kwargs):
    super().__init__(*args, **kwargs)
    self.mask = nnx.data(mask)

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps inputs [..., in_features] to [..., out_features]."""
    view = wn.KernelView(self, kernel=self.kernel[...] * self.mask)
    return nnx.Linear.__call__(view, inputs)


class Layers:
  """Makes layers of one parameterisation: `linear`, `masked_linear`, `conv` and `conv_transpose`.

  Args:
    parameterization: 'plain' or 'wn'.
    init_std: standard deviation of v, and of plain weights.
    log_scale: c, where weight-normalised layers have g = exp(c s); 0: they have g itself.
    dtype: of the products of a layer that is not told another; None: that of the parameters.
    rngs: random streams; `params` is used.

  Raises:
    KeyError: unknown parameterisation.
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
    library = {'plain': nnx, 'wn': wn}[parameterization]
    common: dict[str, Any] = {'kernel_init': nnx.initializers.normal(init_std), 'rngs': rngs}
    common |= {
      'dtype': None if dtype is None else jnp.dtype(dtype),
      'promote_dtype': promote_all_but_bias,
    }
    common |= {'log_scale': log_scale} if library is wn else {}
    make: Callable[..., Any] = functools.partial
    self.linear = make(library.Linear, **common)
    self.masked_linear = make(wn.Linear if library is wn else MaskedLinear, **common)
    self.conv = make(library.Conv, **common)
    self.conv_transpose = make(library.ConvTranspose, **common)


def init_scale(scale: float, flow_scale: float) -> Callable[[str, nnx.Module], float]:
  """For `wn.data_dependent_init`: `flow_scale` for the layers of a flow, `scale` for all others."""
  return lambda name, layer: flow_scale if 'flow' in name.split('.') else scale


def autoregressive_mask(in_degrees: np.ndarray, out_degrees: np.ndarray) -> np.ndarray:
  """[in, out] float32: 1 where a unit may see an input, that is where its degree is not smaller.

  Germain et al. (2015), MADE, Eq. 8. For output units, whose degree must be larger than that of
  what they see, pass their degree less one.
  """
  return (in_degrees[:, None] <= out_degrees[None, :]).astype(np.float32)
