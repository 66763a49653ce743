"""Fine-tuning of all maps, learning rates and seeds of one method as one program that drops what is decided.

A replica is a map, a learning rate and a seed. Only those that still matter are stepped: before each chunk the ones
that go on are put first, and whole blocks of others are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._fine_tuning.linearised import tangent_maps
from experiments._fine_tuning.methods import Method, learning_rates
from experiments._fine_tuning.problem import CONTROL, Problem, arms, draw_control, kl, map_keys
from pbjax.replicas import Replicas
from pbjax.runs import lay_out_replicas


class Shape(NamedTuple):
    """How many maps, learning rates and seeds there are; a replica is numbered with its seed varying fastest."""

    arms: int
    rates: int
    seeds: int

    @property
    def size(self) -> int:
        """Number of replicas."""
        return self.arms * self.rates * self.seeds


class Carry(NamedTuple):
    """State of all replicas [R, ...].

    Attributes:
        trained: what moves.
        optimiser_state: of the optax transformation.
        steps: steps taken.
        reached: steps that it took to the target, -1 before.
        active: whether it goes on.
        failed: whether its loss was not finite.
    """

    trained: Any
    optimiser_state: Any
    steps: Any
    reached: Any
    active: Any
    failed: Any


def shape_of(config: Any) -> Shape:
    """The study's."""
    return Shape(len(arms(config)), config.rates, len(config.seeds))


def spread(shape: Shape, tree: Any) -> Any:
    """From [A, S, ...] to replicas [R, ...]."""

    def one(leaf: Any) -> Any:
        full = jnp.broadcast_to(leaf[:, None], (shape.arms, shape.rates, shape.seeds, *leaf.shape[2:]))
        return full.reshape(shape.size, *leaf.shape[2:])

    return jax.tree.map(one, tree)


def init(config: Any, method: Method, params: Any) -> tuple[Any, Carry]:
    """Where all arms and seeds start [A, S, ...], and the state of all replicas."""
    shape = shape_of(config)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1_000_004))(jnp.asarray(config.seeds))
    start = jax.jit(jax.vmap(jax.vmap(method.init), in_axes=(None, 0)))(keys, params)
    if method.permute is not None:
        start = _with_control(config, method.permute, params, start)
    trained = spread(shape, start)
    zeros = jnp.zeros(shape.size, jnp.int32)
    state = jax.jit(jax.vmap(method.optimiser.init))(trained)
    return start, Carry(trained, state, zeros, zeros - 1, zeros == 0, zeros != 0)


def _with_control(config: Any, permute: Callable[..., Any], params: Any, start: Any) -> Any:
    """The same [A, S, ...] where the control starts from the permuted draws of the network without a map."""
    own, drawn = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in (params, start))

    def one(key: jax.Array, own: Any, drawn: Any) -> Any:
        return permute(draw_control(config, key, own), own, drawn)

    moved = jax.jit(jax.vmap(one))(map_keys(config), own, drawn)
    place = [arm.symmetry for arm in arms(config)].index(CONTROL)
    return jax.tree.map(lambda leaf, new: leaf.at[place].set(new), start, moved)


def scores(shape: Shape, carry: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """Mean log of the steps to the target of each map and rate [A, Q], and which are done.

    It is a bound from below where seeds go on, and infinite where one failed.
    """
    grid = (shape.arms, shape.rates, shape.seeds)
    reached, failed = carry.reached.reshape(grid), carry.failed.reshape(grid)
    steps = xp.where(reached >= 0, reached, carry.steps.reshape(grid))
    logs = xp.where(failed, xp.inf, xp.log(xp.maximum(steps, 1).astype(xp.float32)))
    return logs.mean(-1), xp.all(reached >= 0, axis=-1)


def still_matters(shape: Shape, carry: Carry, *, cap_factor: float) -> jax.Array:
    """Which replicas go on [R].

    A learning rate is over once all seeds of another one at the same map were faster on average than it can still be.
    The rate that is best without a map goes on under every map, as this is the one that is also held fixed; the cap
    counts from its steps.
    """
    score, done = scores(shape, carry)
    best = jnp.where(done, score, jnp.inf).min(-1)
    dominated = ~done & (score >= best[:, None])
    decided = jnp.isfinite(best[0]) & jnp.all(done[0] | dominated[0])
    fixed = jnp.arange(shape.rates) == jnp.argmin(jnp.where(done[0], score[0], jnp.inf))
    first = jnp.arange(shape.arms) == 0
    kept = ~first[:, None] & fixed[None, :]
    dropped = dominated & (decided | first)[:, None] & ~kept
    cap = jnp.where(decided, cap_factor * jnp.exp(best[0]), jnp.inf)
    going = (carry.reached < 0) & ~carry.failed & (carry.steps < cap)
    return going & jnp.repeat(~dropped, shape.seeds)


def lay_out(config: Any) -> tuple[Replicas, int, int]:
    """How blocks of replicas are spread over the devices, one of a device after the other; their number and size."""
    size = shape_of(config).size
    layout = lay_out_replicas(size, at_most=config.replicas_at_once)
    assert layout.mesh is not None
    block = layout.at_once or -(-size // layout.mesh.shape["replica"])
    blocks = -(-size // block)
    return lay_out_replicas(blocks, at_once=1), blocks, block


def make_chunk(config: Any, problem: Problem, method: Method, *, linearised: bool) -> Callable[..., Any]:
    """`chunk(carry, params [A, S, ...], start [A, S, ...]) -> (carry, KL before the chunk's first step [R])`.

    With `linearised`, logits are those of the network made linear around the start in the numbers that are trained.
    """
    shape = shape_of(config)
    rates = jnp.asarray(learning_rates(config, method.name), config.precision)
    sequences = problem.after.support()
    replicas, blocks, block = lay_out(config)
    side_by_side = Replicas(at_once=block)
    assert replicas.mesh is not None
    turns = -(-blocks // replicas.mesh.shape["replica"])
    # Blocks begin with those that go on: all devices take their first turns with these.
    turn_by_turn = np.argsort(np.arange(blocks) % turns, kind="stable")
    device_by_device = np.argsort(turn_by_turn)
    update = optax.with_extra_args_support(method.optimiser).update

    def divergence(trained: Any, params: Any, start: Any) -> tuple[jax.Array, Any]:
        """KL, and the gradient of the mean over positions, as in pre-training."""

        def network(w: Any) -> jax.Array:
            return problem.model.apply(method.merge(params, w), sequences[:, :-1])

        if linearised:
            value, forth, back = tangent_maps(network, start)
            value = value + forth(jax.tree.map(jnp.subtract, trained, start))
        else:
            value, reverse = jax.vjp(network, trained)
            back = lambda u: reverse(u)[0]  # noqa: E731
        found, slope = jax.value_and_grad(lambda logits: kl(logits, problem.after))(value)
        return found, back(slope / (sequences.shape[1] - 1))

    def one(carry: Carry, index: jax.Array, params: Any, start: Any) -> tuple[Carry, jax.Array]:
        """A chunk of steps of one replica."""
        seed, rate = index % shape.seeds, rates[index // shape.seeds % shape.rates]
        arm = index // (shape.seeds * shape.rates)
        own, origin = (jax.tree.map(lambda leaf: leaf[arm, seed], tree) for tree in (params, start))

        def step(now: Carry, _: None) -> tuple[Carry, jax.Array]:
            found, slope = divergence(now.trained, own, origin)
            updates, state = update(slope, now.optimiser_state, now.trained)
            moved = jax.tree.map(lambda w, u: w + (rate * u).astype(w.dtype), now.trained, updates)
            reached = now.active & (found <= config.target)
            failed = now.active & ~jnp.isfinite(found)
            going = now.active & ~reached & ~failed
            new = Carry(
                moved, state, now.steps + 1, jnp.where(reached, now.steps, now.reached), going, now.failed | failed
            )
            kept = jax.tree.map(lambda a, b: jnp.where(going, a, b), new, now)
            after = kept._replace(reached=new.reached, active=new.active, failed=new.failed)
            return after, jnp.where(now.active, found, jnp.nan)

        after, found = jax.lax.scan(step, carry, None, length=config.evaluate_every)
        return after, found[0]

    def chunk(carry: Carry, params: Any, start: Any) -> tuple[Carry, jax.Array]:
        carry = carry._replace(active=still_matters(shape, carry, cap_factor=config.cap_factor))
        order = jnp.argsort(~carry.active, stable=True)
        places = jnp.pad(order, (0, blocks * block - shape.size), mode="edge").reshape(blocks, block)
        # What only fills up the last block is a second copy, which goes nowhere.
        real = (jnp.arange(blocks * block) < shape.size).reshape(blocks, block)

        def run(place: jax.Array, real: jax.Array) -> tuple[Carry, jax.Array]:
            own = jax.tree.map(lambda leaf: leaf[place], carry)
            own = own._replace(active=own.active & real)
            moving = lambda now: side_by_side.map(lambda c, i: one(c, i, params, start), (now, place))  # noqa: E731
            resting = lambda now: (now, jnp.full(block, jnp.nan, config.precision))  # noqa: E731
            return jax.lax.cond(own.active.any(), moving, resting, own)

        made, found = replicas.gather(replicas.map(run, (places[device_by_device], real[device_by_device])))
        # Back to the numbers of the replicas.
        back = jnp.argsort(order)
        ordered = jax.tree.map(
            lambda leaf: leaf[turn_by_turn].reshape(-1, *leaf.shape[2:])[: shape.size][back], (made, found)
        )
        return replicas.gather(ordered)

    return chunk


class Outcome(NamedTuple):
    """What a method's runs say.

    Attributes:
        reached: steps to the target [A, Q, S], -1 where it was not reached.
        steps: steps taken [A, Q, S].
        failed: whether the loss left the finite numbers [A, Q, S].
        curve: KL at the first step of each chunk [A, Q, S, C], NaN where a run was over.
        tuned: best rate of each map [A].
        fixed: the best rate without a map, an index.
    """

    reached: np.ndarray
    steps: np.ndarray
    failed: np.ndarray
    curve: np.ndarray
    tuned: np.ndarray
    fixed: int


def outcome(config: Any, run: Mapping[str, Any]) -> Outcome:
    """Learning rates chosen and all in the shape of the study, from the `steps`, `reached` and `failed` [R] and the
    `curve` [C, R] of a run.

    The best rate of a map has the least mean log of steps; where no rate brought all seeds to the target, it is the one
    that brought most of them, and of these the fastest.
    """
    shape = shape_of(config)
    grid = (shape.arms, shape.rates, shape.seeds)
    steps, reached, failed = (np.asarray(run[name]) for name in ("steps", "reached", "failed"))
    score, _ = scores(shape, Carry((), (), steps, reached, ~failed, failed), np)
    reached, steps, failed = reached.reshape(grid), steps.reshape(grid), failed.reshape(grid)
    count = (reached >= 0).sum(-1)
    tuned = np.array([np.lexsort((score[a], -count[a]))[0] for a in range(shape.arms)])
    curve = np.moveaxis(np.asarray(run["curve"]), 0, -1).reshape(*grid, -1)
    return Outcome(reached, steps, failed, curve, tuned, int(tuned[0]))
