r"""Training of a language model as one pure scan, ready for `vmap` over seeds and regimes.

Everything that replicas differ in (key, regime, and so the weights of the objective) is data, hence one compiled
program serves them all; the sequences are shared and not copied. Every random number of a step comes from the
replica's key and the number of the step, so it does not matter how the steps are cut into chunks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range, concrete
from pbjax.formal._batches import completion_batches, sequence_batches
from pbjax.formal.objectives import COMPLETION_REGIMES, Regime, completion_loss, nats_per_sequence, pinned_loss
from pbjax.formal.vocabulary import PAD
from pbjax.models import LanguageModel

__all__ = ["Training", "TrainingMetrics", "TrainingState", "inverse_square_root", "make_training"]

Sequences = ArrayLike | Callable[[jax.Array], jax.Array]
Penalty = Callable[[Any, jax.Array], jax.Array]


class TrainingState(NamedTuple):
    """All that one replica carries from step to step; a checkpoint of it resumes bit for bit.

    Attributes:
        params: the model's parameters.
        optimiser_state: state of the optax transformation.
        step: steps taken, int32 [].
        key: the replica's typed key; it never changes.
        regime: the replica's objective.
    """

    params: Any
    optimiser_state: Any
    step: jax.Array
    key: jax.Array
    regime: Regime


class TrainingMetrics(NamedTuple):
    """What was minimised, before each step and on its batch, dropout included; each float [num_steps].

    Attributes:
        objective: the weighted sum.
        loss: nats a position on the data.
        kl: nats a sequence on the data, minus the entropy that `make_training` was given.
        completion: nats a position on the completions, or the penalty; 0 where there is neither.
    """

    objective: jax.Array
    loss: jax.Array
    kl: jax.Array
    completion: jax.Array


class Training(NamedTuple):
    """A training program.

    Attributes:
        init: `init(key, regime) -> TrainingState`, pure.
        chunk: `chunk(state, num_steps) -> (state, TrainingMetrics)`, pure, one scan; `num_steps` is static.
    """

    init: Callable[[jax.Array, Regime], TrainingState]
    chunk: Callable[[TrainingState, int], tuple[TrainingState, TrainingMetrics]]


def inverse_square_root(rate: float, *, warmup: int = 1000) -> Callable[[ArrayLike], jax.Array]:
    r"""Learning rate that rises to its peak and then falls with the square root, $\eta \min(t/W, \sqrt{W/t})$.

    Args:
        rate: $\eta$, the peak, reached at $t = W$; >= 0.
        warmup: $W$, steps of the linear rise, at least 1. The first step, $t = 0$, has rate 0.

    Returns:
        A schedule `count -> rate` for optax.

    Raises:
        ValueError: a negative rate or a warm-up below 1.

    Example:
        >>> schedule = inverse_square_root(0.002, warmup=1000)
        >>> [round(float(schedule(t)), 6) for t in (0, 500, 1000, 4000)]
        [0.0, 0.001, 0.002, 0.001]

    References:
        Vaswani et al., "Attention is all you need", NeurIPS 2017, eq. 3 (the same shape, scaled by the width).
    """
    check_range("rate", rate, low=0.0, open_high=True)
    check_n(warmup, name="warmup")

    def schedule(count: ArrayLike) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)
        return rate * jnp.minimum(t / warmup, jnp.sqrt(warmup / jnp.maximum(t, 1)))

    return schedule


def make_training(
    model: LanguageModel,
    optimiser: optax.GradientTransformation,
    *,
    sequences: Sequences,
    batch_size: int | None = None,
    completions: ArrayLike | None = None,
    completion_batch_size: int | None = None,
    prompt_length: int | None = None,
    skip_first: bool = False,
    penalty: Penalty | None = None,
    entropy: float = 0.0,
    include_padding: bool = True,
    shuffle_rows: bool = True,
    sequence_dropout: bool = True,
    pad: int = PAD,
) -> Training:
    r"""Gradient steps on $u\,\ell + w\,c + v\,H_\delta(K - \kappa)$, with the weights of each replica's `Regime`.

    $\ell$ is `sequence_loss` on the sequences, $K$ their mean `nats_per_sequence` minus the entropy, $c$ is
    `completion_loss` on the regime's set of completions. A step is one batch of sequences and, with completions, one
    batch of these; without completions the second pass is not compiled, so train plain runs in a program of their own
    where time matters. A `penalty` takes the place of $c$, with $w$ = `Regime.completion_weight` as its weight;
    `state._replace(regime=...)` branches a trained state into continuations with and without it, on the same batches.

    A minibatch walks through a permutation of the set that is drawn anew each epoch; a last batch that is not full is
    left out. Models whose output depends on the row of the batch get a random order of the rows.

    Args:
        model: a `LanguageModel`.
        optimiser: an optax transformation. It also gets `grad_fn`, `value_and_grad_fn` and `key`, so the members of
            `pbjax.optim` work anywhere in it, save the one with micro-batches. Their second gradient meets the same
            batch and the same dropout as the first.
        sequences: tokens [N, t + 1] with SOS first, shared by all replicas; or `draw(key) -> tokens [n, t + 1]` for
            fresh ones at each step.
        batch_size: sequences a step; None is the whole set.
        completions: prompts with their completions, tokens [n, s + 1], or [k, n, s + 1] with one set for each value of
            `Regime.completions`. s may be less than t: cut off the PAD that all have in common.
        completion_batch_size: completions a step, drawn without replacement; None is all n.
        prompt_length: symbols of a prompt without SOS; needed with completions.
        skip_first: leave the first token after the prompt untrained, as the public code does.
        penalty: `penalty(params, key) -> scalar`, pure, in place of `completions`; its key is new at each step and the
            same in replicas of equal keys. Nothing is drawn for it here, and `Regime.completions` is not read.
        entropy: of the data law, nats a sequence.
        include_padding: whether PAD targets count in $\ell$, $K$ and $c$.
        shuffle_rows: with the whole set in each batch, give its sequences random rows at each step.
        sequence_dropout: whether the pass over the data has dropout. Switch it off with a pin: the divergence that is
            pinned is then the one that `evaluate_loss` reports, while completions still train with dropout.
        pad: the PAD token.

    Returns:
        `Training(init, chunk)`; `jax.vmap` both over keys and stacked regimes.

    Raises:
        ValueError: shapes, tokens or sizes that do not fit the model or each other; completions and a penalty, or a
            penalty that is no scalar; a regime that wants completions which are not there.

    Example:
        >>> import math
        >>> from pbjax.formal import regime
        >>> from pbjax.models import transformer
        >>> model = transformer(5, width=4, heads=2, feed_forward=8, layers=1)
        >>> sequences = jnp.array([[0, 3, 4, 1, 2, 2], [0, 3, 3, 4, 4, 1]])
        >>> training = make_training(model, optax.adamw(0.002), sequences=sequences, entropy=math.log(2))
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> state = jax.vmap(training.init, in_axes=(0, None))(keys, regime("maximum_likelihood"))
        >>> state, metrics = jax.jit(jax.vmap(lambda replica: training.chunk(replica, 2)))(state)
        >>> metrics.loss.shape
        (3, 2)

    References:
        Reizinger et al., "Position: understanding LLMs requires more than statistical generalization", ICML 2024.
    """
    check_range("entropy", entropy, low=0.0, open_high=True)
    batch = sequence_batches(model, sequences, batch_size, shuffle_rows=shuffle_rows)
    num_sets = 0
    completion_batch = None
    if penalty is not None:
        _check_penalty(penalty, model, completions)
        num_sets = len(COMPLETION_REGIMES)  # one penalty, whatever set the regime names
    if completions is not None:
        sets, completion_batch = completion_batches(model, completions, completion_batch_size)
        num_sets = sets.shape[0]
        if prompt_length is None:
            raise ValueError("prompt_length is missing: pass the number of symbols in a prompt, without SOS")
        if prompt_length < 0 or prompt_length + skip_first >= sets.shape[-1] - 1:
            raise ValueError(
                f"prompt_length = {prompt_length}: completions of {sets.shape[-1]} tokens leave no target to train on"
            )
    update = optax.with_extra_args_support(optimiser).update

    def data_loss(params: Any, tokens: jax.Array, rows: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Nats a position and nats a sequence."""
        targets = tokens[:, 1:]
        logits = model.apply(params, tokens[:, :-1], key=key if sequence_dropout else None, rows=rows)
        nats = nats_per_sequence(logits, targets, include_padding=include_padding, pad=pad).mean()
        share = 1.0 if include_padding else (targets != pad).mean(dtype=nats.dtype)
        return nats / (targets.shape[-1] * share), nats

    def completions_loss(params: Any, tokens: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        logits = model.apply(params, tokens[:, :-1], key=key, rows=rows)
        return completion_loss(
            logits, tokens[:, 1:], prompt_length=prompt_length or 0, skip_first=skip_first,
            include_padding=include_padding, pad=pad,
        )  # fmt: skip

    def one_step(state: TrainingState, _: None) -> tuple[TrainingState, TrainingMetrics]:
        # One split for all that is random in a step: each further derivation of keys is code to compile and run.
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 5)
        regime = state.regime
        sequence_batch = batch(state.key, keys[0], state.step)
        others = None if completion_batch is None else completion_batch(keys[1], regime.completions)

        def objective(params: Any) -> tuple[jax.Array, TrainingMetrics]:
            loss, nats = data_loss(params, *sequence_batch, keys[2])
            kl = nats - entropy
            completion = jnp.zeros_like(loss)
            if penalty is not None:
                completion = jnp.asarray(penalty(params, keys[1]), loss.dtype)
            elif others is not None:
                completion = completions_loss(params, *others, keys[3])
            value = regime.likelihood_weight * loss + pinned_loss(
                completion, kl, pin=regime.pin, completion_weight=regime.completion_weight,
                pin_weight=regime.pin_weight, pin_width=regime.pin_width,
            )  # fmt: skip
            return value, TrainingMetrics(value, loss, kl, completion)

        with_metrics = jax.value_and_grad(objective, has_aux=True)

        def value_and_grad_fn(params: Any) -> tuple[jax.Array, Any]:
            (value, _), gradient = with_metrics(params)
            return value, gradient

        (_, metrics), gradient = with_metrics(state.params)
        updates, optimiser_state = update(
            gradient, state.optimiser_state, state.params, grad_fn=lambda params: with_metrics(params)[1],
            value_and_grad_fn=value_and_grad_fn, key=keys[4],
        )  # fmt: skip
        params = optax.apply_updates(state.params, updates)
        return TrainingState(params, optimiser_state, state.step + 1, state.key, regime), metrics

    def init(key: jax.Array, regime: Regime) -> TrainingState:
        _check_regime(regime, num_sets)
        params_key, own_key = jax.random.split(key)
        params = model.init(params_key)
        regime = Regime(*(jnp.asarray(number) for number in regime))
        return TrainingState(params, optimiser.init(params), jnp.zeros((), jnp.int32), own_key, regime)

    def chunk(state: TrainingState, num_steps: int) -> tuple[TrainingState, TrainingMetrics]:
        check_n(num_steps, name="num_steps")
        return jax.lax.scan(one_step, state, None, length=num_steps)

    return Training(init, chunk)


def _check_penalty(penalty: Penalty, model: LanguageModel, completions: Any) -> None:
    if completions is not None:
        raise ValueError("completions and a penalty: the penalty takes their place, leave one of them out")
    key = jax.random.key(0)
    shape = jax.eval_shape(penalty, jax.eval_shape(model.init, key), key).shape
    if shape != ():
        raise ValueError(f"penalty has shape {shape}: it must be one number, for example a mean")


def _check_regime(regime: Regime, num_sets: int) -> None:
    weight, chosen = concrete(regime.completion_weight), concrete(regime.completions)
    if weight is None or chosen is None:
        return
    if np.any((weight > 0) & (chosen >= num_sets)):
        raise ValueError(
            f"the regime trains on completions number {int(chosen.max())} and there are {num_sets} sets: pass "
            "completions to make_training, stacked in the order of COMPLETION_REGIMES"
        )
