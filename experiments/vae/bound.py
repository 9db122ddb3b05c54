"""The terms of the lower bound, and free bits."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bound:
  """One sample's terms of the lower bound, in nats.

  Attributes:
    log_likelihood: [B] log p(x|z).
    kl: [B, layers, groups] KL(q(z|x) ‖ p(z)) of each group of latents, exact where it has a closed
      form and else log q(z|x) − log p(z) of the sample.
    log_weight: [B] log p(x, z) − log q(z|x) of the sample, an importance weight.
  """

  log_likelihood: jax.Array
  kl: jax.Array
  log_weight: jax.Array

  @property
  def elbo(self) -> jax.Array:
    """[B] lower bound on log p(x)."""
    return self.log_likelihood - jnp.sum(self.kl, axis=(1, 2))

  def loss(self, free_bits: float) -> jax.Array:
    """What training minimises: the mean of −elbo, in which each group has `free_bits` nats free.

    Σ_groups max(λ, mean over the batch of its KL) (Kingma et al. 2016, Eq. 15): no group gains from
    a KL below λ, so that it does not fall idle.
    """
    kl = jnp.mean(self.kl, axis=0)
    kl = jnp.maximum(kl, free_bits) if free_bits else kl
    return jnp.sum(kl) - jnp.mean(self.log_likelihood)
