"""Turns one plain layer into its weight-normalised namesake, in place, and back.

A weight-normalised layer is its `nnx` namesake plus `scale`, `log_scale` and, in `Linear`, `mask`.
So the conversion changes the class of the object and those attributes; whatever refers to the
layer, and the parameters that stay, remain as they are.
"""

from flax import nnx

from wn import layers

# Exact types: a user's subclass may have another forward pass.
NORMALIZED = {
  nnx.Linear: layers.Linear,
  nnx.Conv: layers.Conv,
  nnx.ConvTranspose: layers.ConvTranspose,
}
PLAIN = {normalized: plain for plain, normalized in NORMALIZED.items()}


def normalize_layer(layer: nnx.Module, *, log_scale: bool | float = False) -> None:
  """Makes a plain `nnx` layer weight-normalised, in place: v = w, g = ‖w‖.

  Args:
    layer: its class is one of `NORMALIZED`.
    log_scale: c: `scale` holds s and g = exp(c s). True is 1; False or 0: `scale` holds g.

  Raises:
    ValueError: `log_scale` is negative or not finite; the layer is as it was.
  """
  log_scale = layers.log_factor(log_scale)
  if isinstance(layer, nnx.Linear):
    layer.mask = nnx.data(None)
  set_class(layer, NORMALIZED[type(layer)])
  layer._create_scale(log_scale, {})


def plain_layer(layer: nnx.Module) -> None:
  """Makes a weight-normalised layer plain, in place: kernel = w."""
  # A new variable: another layer may share the old one, with a g of its own.
  layer.kernel = layer.kernel.replace(layer.normalized_kernel())
  del layer.scale, layer.log_scale
  if isinstance(layer, nnx.Linear):
    del layer.mask
  set_class(layer, PLAIN[type(layer)])


def set_class(module: nnx.Module, cls: type[nnx.Module]) -> None:
  """Changes the class of a module; nnx's own attribute hook would take it for a new attribute."""
  object.__setattr__(module, '__class__', cls)
