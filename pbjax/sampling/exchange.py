r"""Replica exchange: neighbouring rungs of a ladder offer each other their states, pairs (0,1), (2,3), ... and then
(1,2), (3,4), ... in turn (deterministic even-odd swaps).

The joint law of the K rungs of one chain is the product of their Gibbs posteriors. Swapping the states of rungs i and j
changes its log-density by

    (b_i - b_j) (L_i - L_j),

so a swap with probability min(1, exp of that) leaves the product invariant, hence every rung's own law, and costs no
gradient: a replica carries its position with L and the gradient of L, none of which depends on the temperature, and the
kernel's cached log-density is rebuilt from them at every move (`annealed_move`). What a swap buys is a path between
modes: up where L hardly matters, and down again somewhere else. What it costs is independence of the rungs of a chain.

K rungs, C chains a rung, each chain a ladder of its own, R = K C replicas with rungs varying slowest, d parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.precision import value_and_force
from pbjax.replicas import TOGETHER, Replicas
from pbjax.sampling.annealed_move import MoveResult, hmc_move
from pbjax.sampling.hmc import Energy

TO_TOP, TO_BOTTOM = 1, 2


class EnergyState(NamedTuple):
    """What moves between rungs.

    Attributes:
        position: z, float32 [R, d].
        energy: L, [R], float64 under x64.
        energy_grad: its gradient, [R, d].
    """

    position: jax.Array
    energy: jax.Array
    energy_grad: jax.Array


class ExchangeRecord(NamedTuple):
    """Who is where, and what the swaps did since the start of the record.

    Attributes:
        replica: rung on which the replica now on rung k was at the start of the record, int32 [K, C].
        heading: of the replica now on rung k: 0 before its first visit to the bottom, then 1 until it is at the top,
            then 2 until it is back at the bottom; int32 [K, C].
        round_trips: bottom, top, bottom again: how often the replica now on rung k did that, int32 [K, C].
        attempts: swaps offered between rungs k and k + 1 in each chain, int32 [K - 1].
        acceptance: sum of their acceptance probabilities, [K - 1, C].
        parity: int32 scalar, which pairs come next: (0, 1), (2, 3), ... for 0 and (1, 2), (3, 4), ... for 1.
    """

    replica: jax.Array
    heading: jax.Array
    round_trips: jax.Array
    attempts: jax.Array
    acceptance: jax.Array
    parity: jax.Array


class ExchangeSummary(NamedTuple):
    """Report of an `ExchangeRecord`, on the host.

    Attributes:
        acceptance: mean acceptance probability of a swap between rungs k and k + 1, [K - 1, C]; NaN for a pair that was
            never offered one.
        round_trips: completed round trips of all replicas of a chain, [C].
        replicas_at_both_ends: replicas of a chain that have been at the bottom and, since then, at the top, [C].
    """

    acceptance: np.ndarray
    round_trips: np.ndarray
    replicas_at_both_ends: np.ndarray


def init_record(rungs: int, chains: int) -> ExchangeRecord:
    """Empty record of C ladders of K rungs.

    Args:
        rungs: K, at least 2.
        chains: C, at least 1.

    Returns:
        `ExchangeRecord`; the replicas at the bottom are on their way to the top.

    Raises:
        ValueError: for fewer than two rungs.

    Example:
        >>> init_record(3, 2).replica.tolist()
        [[0, 0], [1, 1], [2, 2]]
    """
    if rungs < 2:
        raise ValueError(f"{rungs} rung has no neighbour to exchange states with; give at least 2 rungs")
    replica = jnp.broadcast_to(jnp.arange(rungs, dtype=jnp.int32)[:, None], (rungs, chains))
    zeros = jnp.zeros((rungs, chains), jnp.int32)
    wide = jax.dtypes.canonicalize_dtype(jnp.float64)
    return ExchangeRecord(
        replica, zeros.at[0].set(TO_TOP), zeros, jnp.zeros((rungs - 1,), jnp.int32),
        jnp.zeros((rungs - 1, chains), wide), jnp.zeros((), jnp.int32),
    )  # fmt: skip


def init_state(positions: jax.Array, energy: Energy) -> EnergyState:
    """L and its gradient at every replica; costs one gradient.

    Args:
        positions: z, float32 [R, d].
        energy: z [d] -> L, differentiable.

    Returns:
        `EnergyState`.

    Example:
        >>> state = init_state(jnp.ones((2, 3), jnp.float32), lambda z: jnp.mean(z**2))
        >>> state.energy.tolist(), state.energy_grad.shape
        ([1.0, 1.0], (2, 3))
    """
    value, gradient = jax.vmap(value_and_force(energy))(positions)
    return EnergyState(positions, value.astype(jax.dtypes.canonicalize_dtype(jnp.float64)), gradient)


def move(
    key: jax.Array,
    state: EnergyState,
    *,
    betas: jax.Array,
    step_sizes: jax.Array,
    energy: Energy,
    num_integration_steps: int,
    jitter: float,
    inverse_mass: jax.Array,
    replicas: Replicas = TOGETHER,
) -> tuple[EnergyState, jax.Array, jax.Array]:
    """One HMC move of every replica at its rung: `hmc.step` for replicas that carry L and its gradient.

    Args:
        key: a typed PRNG key; split over replicas inside.
        state: leading axis R.
        betas: [R], > 0.
        step_sizes: [R], > 0.
        energy: z [d] -> L.
        num_integration_steps: leapfrog steps a move, >= 1.
        jitter: relative half-width of the random step size, in [0, 1).
        inverse_mass: diagonals, [R, d].
        replicas: their layout; static.

    Returns:
        The state, acceptance probabilities [R] and divergences, bool [R]; `num_integration_steps` gradients a replica.
    """
    key_step, key_jitter = jax.random.split(key)
    keys = jax.random.split(key_step, betas.shape[0])
    uniform = jax.random.uniform(key_jitter, betas.shape, step_sizes.dtype, -1.0, 1.0)

    def one(
        key: jax.Array, at: EnergyState, beta: jax.Array, size: jax.Array, shift: jax.Array, mass: jax.Array
    ) -> MoveResult:
        return hmc_move(
            key, *at, beta=beta, step_size=size * (1.0 + jitter * shift),
            num_integration_steps=jnp.asarray(num_integration_steps), inverse_mass=mass.astype(at.position.dtype),
            energy=energy,
        )  # fmt: skip

    result = replicas.map(one, (keys, state, betas, step_sizes, uniform, inverse_mass))
    return EnergyState(result.z, result.energy, result.gradient), result.acceptance, result.is_divergent


def swap(
    key: jax.Array, state: EnergyState, record: ExchangeRecord, *, betas: jax.Array
) -> tuple[EnergyState, ExchangeRecord]:
    """One round of swaps between neighbouring rungs, every chain by itself; costs no gradient.

    Args:
        key: a typed PRNG key.
        state: leading axis R = K C, rungs varying slowest.
        record: who is where; its parity says which pairs are offered a swap.
        betas: inverse temperatures in increasing order, [K].

    Returns:
        The state with the accepted pairs exchanged, and the record.

    Example:
        >>> state = init_state(jnp.array([[0.0], [3.0]], jnp.float32), lambda z: jnp.mean(z**2))
        >>> swapped, record = swap(jax.random.key(0), state, init_record(2, 1), betas=jnp.array([1.0, 10.0]))
        >>> swapped.energy.tolist(), record.replica[:, 0].tolist()  # the lower L moves to the larger beta for certain
        ([9.0, 0.0], [1, 0])

    References:
        Okabe et al. 2001, Replica-exchange Monte Carlo method (the alternation of pairs); Syed et al. 2022,
        Non-reversible parallel tempering (why it is better than pairs at random).
    """
    rungs, chains = record.replica.shape
    value = state.energy.reshape(rungs, chains)
    log_ratio = jnp.diff(betas)[:, None] * jnp.diff(value, axis=0)
    offered = jnp.arange(rungs - 1) % 2 == record.parity
    uniform = jax.random.uniform(key, log_ratio.shape, value.dtype)
    # A NaN compares false: refused.
    accepted = (jnp.log(uniform) < log_ratio) & offered[:, None]
    none = jnp.zeros((1, chains), jnp.int32)
    steps = accepted.astype(jnp.int32)
    source = jnp.arange(rungs)[:, None] + jnp.concatenate([steps, none]) - jnp.concatenate([none, steps])
    rows = (source * chains + jnp.arange(chains)[None]).reshape(-1)
    state = jax.tree.map(lambda x: x[rows], state)

    replica, heading, trips = (
        jnp.take_along_axis(x, source, axis=0) for x in (record.replica, record.heading, record.round_trips)
    )
    trips = trips.at[0].add((heading[0] == TO_BOTTOM).astype(trips.dtype))
    heading = heading.at[0].set(TO_TOP)
    heading = heading.at[-1].set(jnp.where(heading[-1] == TO_TOP, TO_BOTTOM, heading[-1]))
    probability = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)))
    return state, ExchangeRecord(
        replica, heading, trips, record.attempts + offered,
        record.acceptance + jnp.where(offered[:, None], probability, 0.0), 1 - record.parity,
    )  # fmt: skip


def summarise_exchange(record: ExchangeRecord) -> ExchangeSummary:
    """What the swaps did: acceptance of every pair of neighbours, and round trips.

    A ladder whose replicas make no round trip has not carried anything from one mode to another, whatever the swap
    acceptance of its pairs: one pair that never swaps is enough.

    Args:
        record: the record of a run.

    Returns:
        `ExchangeSummary`.

    Example:
        >>> state = init_state(jnp.array([[0.0], [3.0]], jnp.float32), lambda z: jnp.mean(z**2))
        >>> _, record = swap(jax.random.key(0), state, init_record(2, 1), betas=jnp.array([1.0, 10.0]))
        >>> summarise_exchange(record).acceptance.tolist()
        [[1.0]]
    """
    attempts = np.asarray(record.attempts, np.float64)[:, None]
    total = np.asarray(record.acceptance, np.float64)
    trips, heading = np.asarray(record.round_trips), np.asarray(record.heading)
    return ExchangeSummary(
        np.divide(total, attempts, out=np.full(total.shape, np.nan), where=attempts > 0),
        trips.sum(axis=0),
        ((trips > 0) | (heading == TO_BOTTOM)).sum(axis=0),
    )
