"""A bounded loss with two wells; no chain that starts in the shallow one reaches the other at a high beta.

python -m tests.sampling.two_wells    # prints the table of docs/certificates.md
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.evidence import thermodynamic_integration
from pbjax.sampling import (
    HMCSettings,
    init_ladder,
    sample_chunk,
    summarise,
    summarise_exchange,
)

WELLS = np.array([[2.0, 0.0], [-2.0, 0.0]])
DEPTHS, WIDTHS = np.array([0.9, 1.0]), np.array([0.5, 0.4])
BETAS = np.geomspace(1.0, 100.0, 10)
CHAINS, DRAWS, STEPS = 4, 2000, 0.35
SETTINGS = HMCSettings(num_integration_steps=5, jitter=0.2)


def two_wells(z):
    """L in [0, 1]; z [2]."""
    squares = jnp.sum(jnp.square(z.astype(jnp.float64)[None] - jnp.asarray(WELLS)), axis=1)
    return 1 - jnp.sum(jnp.asarray(DEPTHS) * jnp.exp(-squares / (2 * jnp.asarray(WIDTHS) ** 2)))


def _quadrature():
    x = np.linspace(-6, 6, 1201)
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), -1)
    squares = np.sum((grid[..., None, :] - WELLS) ** 2, -1)
    loss = 1 - np.sum(DEPTHS * np.exp(-squares / (2 * WIDTHS**2)), -1)
    prior = np.exp(-0.5 * np.sum(grid**2, -1))
    left, energy, neg_log_z = [], [], []
    for beta in BETAS:
        weight = prior * np.exp(-beta * loss)
        neg_log_z.append(-np.log(weight.sum() / prior.sum()))
        weight /= weight.sum()
        left.append(weight[grid[..., 0] < 0].sum())
        energy.append((weight * loss).sum())
    return np.array(left), np.array(energy), np.array(neg_log_z), float((prior * loss).sum() / prior.sum())


MASS_LEFT, MEAN_ENERGY, NEG_LOG_Z, PRIOR_ENERGY = _quadrature()


def run(*, exchange, seed=0):
    """Chains that all start in the right well: draws of (L, 1[left]) at every rung, and the last state."""
    betas = jnp.asarray(BETAS)
    z = jnp.broadcast_to(jnp.asarray(WELLS[0], jnp.float32), (len(BETAS), CHAINS, 2))
    state = init_ladder(
        jax.random.key(seed), z, betas=betas, energy=two_wells, step_sizes=STEPS / jnp.sqrt(1 + 6 * betas),
        num_functionals=2, exchange=exchange,
    )  # fmt: skip

    def observe(z):
        return jnp.stack([two_wells(z), (z[0] < 0).astype(jnp.float64)])

    sample = partial(sample_chunk, energy=two_wells, observe=observe, settings=SETTINGS, draws=DRAWS)
    sample = jax.jit(sample)
    state, _ = sample(state, betas)  # burn-in
    state, (draws, _) = sample(state, betas)
    return draws, state


def main():
    for beta, left, energy in zip(BETAS, MASS_LEFT, MEAN_ENERGY, strict=True):
        print(f"exact {beta:.3g}: left {left:.4f}, L {energy:.4f}")
    print(f"exact -log Z at the top {NEG_LOG_Z[-1]:.3f}")
    for exchange in (False, True):
        draws, state = run(exchange=exchange)
        print("exchange" if exchange else "plain")
        for name, f in (("L", 0), ("left", 1)):
            found, diagnosis = summarise(draws.functionals[f], dependent_rungs=exchange)
            for k in range(len(BETAS)):
                print(f"  {name} {BETAS[k]:.3g}: {found.mean[k]:.4f} +- {found.standard_error[k]:.4f}, "
                      f"R-hat {diagnosis.r_hat[k]:.3f}")  # fmt: skip
        means = np.concatenate([[PRIOR_ENERGY], summarise(draws.functionals[0])[0].mean])
        sums = thermodynamic_integration(np.concatenate([[0.0], BETAS]), means)
        print(f"  -log Z between {float(sums.right[-1]):.3f} and {float(sums.left[-1]):.3f}")
        if exchange:
            report = summarise_exchange(state.exchange)
            print("  swaps", np.round(report.acceptance.mean(1), 2), "round trips", report.round_trips)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
