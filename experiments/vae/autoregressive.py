"""Masks and initial scales of autoregressive networks."""

from collections.abc import Callable

import numpy as np
from flax import nnx


def init_scale(scale: float, flow_scale: float) -> Callable[[str, nnx.Module], float]:
  """For `wn.data_dependent_init`: `flow_scale` in layers of a flow, `scale` in all others."""
  return lambda name, layer: flow_scale if 'flow' in name.split('.') else scale


def autoregressive_mask(in_degrees: np.ndarray, out_degrees: np.ndarray) -> np.ndarray:
  """[in, out] float32: 1 where an output unit's degree is at least that of the input.

  MADE (Germain et al. 2015), Eq. 8. The last layer needs a strict inequality: pass its degrees
  minus 1.
  """
  return (in_degrees[:, None] <= out_degrees[None, :]).astype(np.float32)
