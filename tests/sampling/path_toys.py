"""Toys on which annealed paths are known exactly: a grid with matrices for kernels, one and three weights."""

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

# --- the grid of the reference note, section 5.4: everything by matrix products --------------------------------------

GRID = np.linspace(-4, 4, 161)
PRIOR = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()
LOSS = 1 - np.exp(-((GRID - 2) ** 2) / (2 * 0.3**2))
OFFSETS = GRID.size - 1


def metropolis(beta, *, width=None, accept=True):
    """Transition matrix: uniform proposal over ±8 grid points (0 excluded), off the grid rejected.

    ``width``: points of reach from each state, [161]; reach that depends on the state is an adapted step size.
    """
    width = np.full(GRID.size, 8) if width is None else width
    distance = np.abs(np.subtract.outer(np.arange(GRID.size), np.arange(GRID.size)))
    proposal = np.where((distance > 0) & (distance <= width[:, None]), 1 / (2 * width[:, None]), 0.0)
    log_target = np.log(PRIOR) - beta * LOSS
    ratio = np.exp(np.minimum(log_target[None, :] - log_target[:, None], 0.0)) if accept else 1.0
    moves = proposal * ratio
    return moves + np.diag(1 - moves.sum(1))


def cubic(last, rungs):
    return last * (np.arange(1, rungs + 1) / rungs) ** 3


def exact_draws_from(beta):
    """Transition matrix of a kernel that forgets where it was: every move is an exact draw from the rung."""
    log_target = np.log(PRIOR) - beta * LOSS
    law = np.exp(log_target - log_target.max())
    return np.broadcast_to(law / law.sum(), (GRID.size, GRID.size))


def law_and_heat(betas, *, moves=1, make_kernel=metropolis):
    """Law of w_K, E[W], and the left sum at the chain's own means."""
    law, heat, exponent, before = PRIOR, 0.0, 0.0, 0.0
    for beta in betas:
        kernel = make_kernel(beta)
        exponent += (beta - before) * law @ LOSS
        before = beta
        for _ in range(moves):
            after = law @ kernel
            heat += beta * (law - after) @ LOSS
            law = after
    return law, heat, exponent - betas[-1] * law @ LOSS


def tilted_law(betas, *, sign=1.0, skip=None, **kernel):
    """E[exp(-sign W); w_K = j] for all j, where the heat of rung ``skip`` is left out."""
    mass = PRIOR
    drops = np.subtract.outer(LOSS, LOSS)
    for k, beta in enumerate(betas):
        tilt = 1.0 if k == skip else np.exp(-sign * beta * drops)
        mass = mass @ (metropolis(beta, **kernel) * tilt)
    return mass


def divergence(law):
    return float(np.sum(np.where(law > 0, law * np.log(np.maximum(law, 1e-300) / PRIOR), 0.0)))


# --- one weight, prior N(0, 1): a well that every chain may reach ----------------------------------------------------

WINDOW = (0.3, 1.7)
WINDOW_PROBABILITY = float(norm.cdf(WINDOW[1]) - norm.cdf(WINDOW[0]))


def well(z):
    return 1 - jnp.exp(-jnp.square(z[0].astype(jnp.float64) - 1.0) / (2 * 0.5**2))


def well_evidence(beta):
    """Λ(beta) by quadrature."""
    w = np.linspace(-9, 9, 20_001)
    return -np.log(np.average(np.exp(-beta * (1 - np.exp(-((w - 1) ** 2) / 0.5))), weights=np.exp(-(w**2) / 2)))


def identity_score(heat, position):
    """(mean of exp(-W) 1(window) - P(window)) in standard errors."""
    w = np.asarray(position)[:, 0]
    terms = np.exp(-np.asarray(heat)) * ((w > WINDOW[0]) & (w < WINDOW[1]))
    return float((terms.mean() - WINDOW_PROBABILITY) / (terms.std(ddof=1) / np.sqrt(terms.size)))


# --- conjugate regression: L(z) = |A z - y|^2 / (2 n), so Q_beta is Gaussian for every beta --------------------------

N, D = 12, 3
A = np.random.default_rng(0).normal(size=(N, D))
Y = np.random.default_rng(1).normal(size=N)


def regression(z):
    return 0.5 * jnp.mean(jnp.square(jnp.asarray(A) @ z.astype(jnp.float64) - jnp.asarray(Y)))


def regression_exact(beta):
    """Mean, covariance, Λ, KL(Q‖P) and E L of the Gibbs posterior."""
    covariance = np.linalg.inv(np.eye(D) + beta / N * A.T @ A)
    mean = covariance @ A.T @ Y * beta / N
    marginal = np.eye(N) + beta / N * A @ A.T
    neg_log_z = 0.5 * np.linalg.slogdet(marginal)[1] + 0.5 * beta / N * Y @ np.linalg.solve(marginal, Y)
    kl = 0.5 * (np.trace(covariance) + mean @ mean - D - np.linalg.slogdet(covariance)[1])
    risk = 0.5 * np.mean((A @ mean - Y) ** 2) + 0.5 * np.trace(A @ covariance @ A.T) / N
    return mean, covariance, neg_log_z, kl, risk


def exact_draws(beta, count, seed):
    mean, covariance = regression_exact(beta)[:2]
    draws = np.random.default_rng(seed).multivariate_normal(mean, covariance, count)
    return jnp.asarray(draws.astype(np.float32))
