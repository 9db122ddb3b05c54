"""Converts a plain layer to its weight-normalised namesake, in place, and back.

A weight-normalised layer is its `nnx` namesake plus `scale`, `log_scale` and, in `Linear`, `mask`.
Conversion changes only these attributes and the object's class, so references to the layer and its
other parameters stay valid.
"""

from flax import nnx

from wn import layers

# Exact types only: a subclass may override the forward pass.
NORMALIZED = {
  nnx.Linear: layers.Linear,
  nnx.Conv: layers.Conv,
  nnx.ConvTranspose: layers.ConvTranspose,
}
PLAIN = {normalized: plain for plain, normalized in NORMALIZED.items()}


def normalize_layer(layer: nnx.Module, *, log_scale: bool | float = False) -> None:
  """Makes a plain `nnx` layer weight-normalised, in place: v = w, g = ‖w‖.

  Args:
    layer: an instance of one of the classes in `NORMALIZED`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.

  Raises:
    ValueError: `log_scale` is negative or not finite; the layer is unchanged.
  """
  log_scale = layers.log_factor(log_scale)
  if isinstance(layer, nnx.Linear):
    layer.mask = nnx.data(None)
  set_class(layer, NORMALIZED[type(layer)])
  layer._create_scale(log_scale, {})


def plain_layer(layer: nnx.Module) -> None:
  """Makes a weight-normalised layer plain, in place: kernel = w."""
  # A new variable, as another layer may share the old one and have its own g.
  layer.kernel = layer.kernel.replace(layer.normalized_kernel())
  del layer.scale, layer.log_scale
  if isinstance(layer, nnx.Linear):
    del layer.mask
  set_class(layer, PLAIN[type(layer)])


def set_class(module: nnx.Module, cls: type[nnx.Module]) -> None:
  """Sets `module.__class__`, bypassing nnx's `__setattr__`, which would add an attribute."""
  object.__setattr__(module, '__class__', cls)
