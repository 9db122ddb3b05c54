"""The terms of the evidence lower bound, and free bits."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bound:
  """Terms of the lower bound for one sample z per image, in nats.

  Attributes:
    log_likelihood: [B] log p(x|z).
    kl: [B, layers, groups] KL(q(z|x) ‖ p(z)) of each group of latents: the closed form if there is
      one, else log q(z|x) − log p(z).
    log_weight: [B] log p(x, z) − log q(z|x), the log importance weight.
  """

  log_likelihood: jax.Array
  kl: jax.Array
  log_weight: jax.Array

  @property
  def elbo(self) -> jax.Array:
    """[B] lower bound on log p(x)."""
    return self.log_likelihood - jnp.sum(self.kl, axis=(1, 2))

  def loss(self, free_bits: float) -> jax.Array:
    """The training loss: mean −elbo with λ = `free_bits` nats free in each group.

    The KL term is Σ_groups max(λ, batch mean of KL) (Kingma et al. 2016, Eq. 15). No group gains
    from a KL below λ, which keeps it in use.
    """
    kl = jnp.mean(self.kl, axis=0)
    kl = jnp.maximum(kl, free_bits) if free_bits else kl
    return jnp.sum(kl) - jnp.mean(self.log_likelihood)
