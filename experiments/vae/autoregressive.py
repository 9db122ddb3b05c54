"""Masks of autoregressive networks, and the scales that their layers are initialized to."""

from collections.abc import Callable

import numpy as np
from flax import nnx


def init_scale(scale: float, flow_scale: float) -> Callable[[str, nnx.Module], float]:
  """For `wn.data_dependent_init`: `flow_scale` for the layers of a flow, `scale` for all others."""
  return lambda name, layer: flow_scale if 'flow' in name.split('.') else scale


def autoregressive_mask(in_degrees: np.ndarray, out_degrees: np.ndarray) -> np.ndarray:
  """[in, out] float32: 1 where a unit may see an input, that is where its degree is not smaller.

  Germain et al. (2015), MADE, Eq. 8. For output units, whose degree must be larger than that of
  what they see, pass their degree less one.
  """
  return (in_degrees[:, None] <= out_degrees[None, :]).astype(np.float32)
