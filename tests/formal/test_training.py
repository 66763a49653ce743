"""Objectives against sums written out, chunks bit for bit, regimes and optimisers in one program, steering to a pin."""

import math

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbjax import optim
from pbjax.formal.evaluation import evaluate_loss
from pbjax.formal.objectives import (
    COMPLETION_REGIMES,
    completion_loss,
    nats_per_sequence,
    pinned_loss,
    regime,
    sequence_loss,
)
from pbjax.formal.training import inverse_square_root, make_training
from pbjax.formal.vocabulary import EOS, PAD, SOS
from tests.formal.tiny_model import leaky_sum

A, B = 3, 4


def powers(largest):
    """All a^n b^n up to n = `largest`, padded to one length."""
    rows = [[SOS, *[A] * n, *[B] * n, EOS] for n in range(1, largest + 1)]
    return np.array([row + [PAD] * (2 * largest + 2 - len(row)) for row in rows], np.int32)


SEQUENCES = powers(3)
# Completions of the prompts "ba" and "ab" (with SOS), one set that stops and one that goes on with a b.
COMPLETIONS = np.array(
    [[[SOS, B, A, B, EOS], [SOS, A, B, B, EOS]], [[SOS, B, A, EOS, PAD], [SOS, A, B, EOS, PAD]]], np.int32
)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def losses_by_hand(logits, targets):
    return -np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0]


def batches():
    shapes = st.tuples(st.integers(1, 3), st.integers(3, 6), st.integers(3, 5))
    return shapes.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float64, shape, elements=st.floats(-5, 5)),
            hnp.arrays(np.int32, shape[:2], elements=st.integers(0, shape[2] - 1)),
        )
    )


@settings(max_examples=25)
@given(batches(), st.integers(0, 1), st.booleans())
def test_losses_are_the_sums_written_out(batch, prompt_length, skip_first):
    logits, targets = batch
    losses, counted = losses_by_hand(logits, targets), targets != PAD
    np.testing.assert_allclose(sequence_loss(logits, targets), losses.mean(), rtol=1e-12)
    np.testing.assert_allclose(nats_per_sequence(logits, targets), losses.sum(-1), rtol=1e-12)
    np.testing.assert_allclose(
        nats_per_sequence(logits, targets, include_padding=False), (losses * counted).sum(-1), rtol=1e-12, atol=1e-14
    )
    start = prompt_length + skip_first
    np.testing.assert_allclose(
        completion_loss(logits, targets, prompt_length=prompt_length, skip_first=skip_first),
        losses[:, start:].mean(), rtol=1e-12,
    )  # fmt: skip
    if counted[:, start:].any():
        np.testing.assert_allclose(
            completion_loss(
                logits, targets, prompt_length=prompt_length, skip_first=skip_first, include_padding=False
            ),
            losses[:, start:][counted[:, start:]].mean(), rtol=1e-12,
        )  # fmt: skip


def test_the_first_token_after_the_prompt_is_target_m():
    """Of "SOS b a | b EOS" with m = 2, the b is target 2: it has a gradient, and with `skip_first` it has none."""
    targets = jnp.asarray(COMPLETIONS[0, :1, 1:])
    for skip_first, expected in ((False, [0, 0, 1, 1]), (True, [0, 0, 0, 1])):
        gradient = jax.grad(completion_loss)(
            jnp.zeros((1, 4, 5)), targets, prompt_length=2, skip_first=skip_first
        )  # fmt: skip
        np.testing.assert_array_equal(np.abs(gradient[0]).sum(-1) > 0, np.array(expected, bool))


def test_pinned_loss_has_its_minimum_at_the_pin_and_pulls_from_both_sides():
    slope = jax.grad(lambda kl: pinned_loss(0.3, kl, pin=0.25, completion_weight=2.0, pin_weight=3.0))
    np.testing.assert_allclose([slope(0.25), slope(0.5), slope(0.0)], [0.0, 1.5, -1.5], atol=1e-12)
    np.testing.assert_allclose(pinned_loss(0.3, 0.75, pin=0.25, completion_weight=2.0, pin_weight=3.0), 0.6 + 0.75)


def test_schedule_at_its_landmarks():
    schedule = inverse_square_root(0.002, warmup=1000)
    steps = np.array([0, 1, 999, 1000, 1001, 4000, 49_000])
    expected = 0.002 * np.minimum(steps / 1000, np.sqrt(1000 / np.maximum(steps, 1)))
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(steps)), expected, rtol=1e-6)


def test_an_adamw_step_by_hand():
    """One step of a minibatch-free, plain run is optax on the mean cross-entropy and nothing else."""
    model, optimiser = leaky_sum(), optax.adamw(inverse_square_root(0.1, warmup=2))
    training = make_training(model, optimiser, sequences=SEQUENCES)
    state = training.init(jax.random.key(1), regime("maximum_likelihood"))
    after, metrics = training.chunk(state, 3)
    params, optimiser_state = state.params, optimiser.init(state.params)
    for step in range(3):
        value, gradient = jax.value_and_grad(
            lambda p: sequence_loss(model.apply(p, SEQUENCES[:, :-1]), SEQUENCES[:, 1:])
        )(params)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(metrics.loss[step], value, rtol=1e-5)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6), after.params, params)
    assert np.any(after.params["output"] != state.params["output"])


PROGRAMS = {
    "whole set": (optax.adam(0.1), {}),
    "minibatches": (optax.adam(0.1), {"batch_size": 2}),
    "sam": (optax.chain(optim.sam(0.05), optax.adam(0.1)), {"batch_size": 2}),
    "asam": (optax.chain(optim.asam(0.5), optax.adam(0.1)), {}),
    "ivon": (optim.ivon(0.1, n=3), {}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_two_chunks_of_five_are_one_of_ten_bitwise(name):
    model, (optimiser, options) = leaky_sum(dropout=0.2, reads_rows=True), PROGRAMS[name]
    training = make_training(
        model, optimiser, sequences=SEQUENCES, completions=COMPLETIONS, completion_batch_size=1, prompt_length=2,
        **options,
    )  # fmt: skip
    state = training.init(jax.random.key(0), regime("oracle"))
    five = jax.jit(lambda s: training.chunk(s, 5))
    once, metrics = jax.jit(lambda s: training.chunk(s, 10))(state)
    half, first = five(state)
    twice, second = five(half)
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second)
    for one, two in zip(jax.tree.leaves((once, metrics)), jax.tree.leaves((twice, whole)), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        np.testing.assert_array_equal(one, two)
    assert len(np.unique(metrics.loss)) == 10


def test_sam_steps_with_the_gradient_at_the_ascended_point():
    model = leaky_sum()
    training = make_training(model, optax.chain(optim.sam(0.3), optax.sgd(1.0)), sequences=SEQUENCES)
    state = training.init(jax.random.key(1), regime("maximum_likelihood"))
    after, _ = training.chunk(state, 1)

    def loss(params):
        return sequence_loss(model.apply(params, SEQUENCES[:, :-1]), SEQUENCES[:, 1:])

    gradient = jax.grad(loss)(state.params)
    length = optax.global_norm(gradient)
    ascended = jax.tree.map(lambda w, g: w + 0.3 * g / length, state.params, gradient)
    expected = jax.tree.map(lambda w, g: w - g, state.params, jax.grad(loss)(ascended))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, expected)


def test_both_gradients_of_sam_meet_the_same_dropout():
    """At radius 0 the second gradient is the first, also with dropout: SAM is then its base optimiser."""
    states = []
    for optimiser in (optax.sgd(0.5), optax.chain(optim.sam(0.0), optax.sgd(0.5))):
        training = make_training(leaky_sum(dropout=0.5), optimiser, sequences=SEQUENCES)
        states.append(training.chunk(training.init(jax.random.key(1), regime("maximum_likelihood")), 3)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *(s.params for s in states))


def stacked(*regimes):
    return jax.tree.map(lambda *numbers: jnp.stack(numbers), *regimes)


def test_replicas_of_one_program_are_the_runs_one_by_one():
    training = make_training(
        leaky_sum(), optax.adam(0.05), sequences=SEQUENCES, completions=COMPLETIONS, prompt_length=2, batch_size=2
    )
    regimes = [regime(name) for name in ("maximum_likelihood", *COMPLETION_REGIMES)]
    regimes.append(regime("oracle", pin=0.5, pin_weight=2.0))
    keys = jax.random.split(jax.random.key(3), len(regimes))
    together, metrics = jax.jit(jax.vmap(lambda k, r: training.chunk(training.init(k, r), 5)))(keys, stacked(*regimes))
    alone = jax.jit(lambda k, r: training.chunk(training.init(k, r), 5))
    for index, (key, one) in enumerate(zip(keys, regimes, strict=True)):
        state, own = alone(key, one)
        np.testing.assert_allclose(metrics.objective[index], own.objective, rtol=1e-4)
        np.testing.assert_allclose(together.params["output"][index], state.params["output"], rtol=1e-3, atol=1e-4)


def test_each_regime_trains_on_its_own_completions():
    """Once the completions are learnt, each regime finds its own set likely and the other's not."""
    training = make_training(
        leaky_sum(width=12), optax.adam(0.05), sequences=SEQUENCES, completions=COMPLETIONS, prompt_length=2
    )
    regimes = stacked(*(regime(name) for name in COMPLETION_REGIMES))
    keys = jax.random.split(jax.random.key(3), 2)
    state, metrics = jax.jit(jax.vmap(lambda k, r: training.chunk(training.init(k, r), 400)))(keys, regimes)

    def loss(params, completions):
        return completion_loss(leaky_sum(width=12).apply(params, completions[:, :-1]), completions[:, 1:], prompt_length=2)

    table = jax.vmap(lambda p: jnp.stack([loss(p, completions) for completions in COMPLETIONS]))(state.params)
    assert table[0, 0] < 0.1 < 1.0 < table[0, 1]
    assert table[1, 1] < 0.1 < 1.0 < table[1, 0]
    np.testing.assert_allclose(metrics.completion[:, -1], jnp.diag(table), rtol=0.5)


def test_pinned_regimes_end_at_one_loss_and_differ_in_their_completions():
    """Steering holds all three regimes at 1 nat a sequence above the entropy, which plain training would leave."""
    model = leaky_sum(width=12, dropout=0.1)
    training = make_training(
        model, optax.adam(optax.cosine_decay_schedule(0.05, 1500)), sequences=SEQUENCES, completions=COMPLETIONS,
        prompt_length=2, entropy=math.log(3), sequence_dropout=False,
    )  # fmt: skip
    names = ("maximum_likelihood", *COMPLETION_REGIMES)
    regimes = stacked(*(regime(name, pin=1.0, pin_weight=10.0) for name in names), regime("maximum_likelihood"))
    keys = jnp.repeat(jax.random.key(5)[None], 4)
    state, metrics = jax.jit(jax.vmap(lambda k, r: training.chunk(training.init(k, r), 1500)))(keys, regimes)
    evaluate = jax.vmap(lambda params: evaluate_loss(model, params, SEQUENCES).nats_per_sequence)
    kl = evaluate(state.params) - math.log(3)
    np.testing.assert_allclose(kl[:3], 1.0, atol=0.02)
    assert kl[3] < 0.7
    assert np.all(metrics.completion[1:3, -1] < 0.3) and metrics.completion[0, -1] > 0.6


def test_a_minibatch_epoch_reads_every_sequence_once():
    """A model whose loss names the sequence it reads: with three of three in batches of one, an epoch is a shuffle."""
    model = leaky_sum()
    training = make_training(model, optax.sgd(0.0), sequences=SEQUENCES, batch_size=1)
    state = training.init(jax.random.key(0), regime("maximum_likelihood"))
    _, metrics = training.chunk(state, 12)
    own = nats_per_sequence(model.apply(state.params, SEQUENCES[:, :-1]), SEQUENCES[:, 1:])
    for epoch in np.asarray(metrics.kl).reshape(4, 3):
        np.testing.assert_allclose(np.sort(epoch), np.sort(own), rtol=1e-5)
    assert len({tuple(np.argsort(epoch)) for epoch in np.asarray(metrics.kl).reshape(4, 3)}) > 1


def test_rows_are_shuffled_only_when_asked():
    model = leaky_sum(reads_rows=True)
    values = {}
    for shuffle in (False, True):
        training = make_training(model, optax.sgd(0.0), sequences=SEQUENCES, shuffle_rows=shuffle)
        state = training.init(jax.random.key(0), regime("maximum_likelihood"))
        values[shuffle] = np.asarray(training.chunk(state, 8)[1].loss)
    assert len(np.unique(values[False])) == 1 < len(np.unique(values[True]))


def test_fresh_sequences_are_drawn_at_each_step():
    def draw(key):
        return jnp.asarray(SEQUENCES)[jax.random.randint(key, (2,), 0, 3)]

    training = make_training(leaky_sum(), optax.sgd(0.0), sequences=draw)
    _, metrics = training.chunk(training.init(jax.random.key(0), regime("maximum_likelihood")), 10)
    assert len(np.unique(metrics.loss)) > 2


def test_padding_is_left_out_of_every_part_when_asked():
    training = make_training(
        leaky_sum(), optax.sgd(0.0), sequences=SEQUENCES, completions=COMPLETIONS, prompt_length=2,
        include_padding=False,
    )  # fmt: skip
    state = training.init(jax.random.key(0), regime("oracle"))
    _, metrics = training.chunk(state, 1)
    logits = leaky_sum().apply(state.params, SEQUENCES[:, :-1])
    expected = sequence_loss(logits, SEQUENCES[:, 1:], include_padding=False)
    np.testing.assert_allclose(metrics.loss[0], expected, rtol=1e-5)
    nats = nats_per_sequence(logits, SEQUENCES[:, 1:], include_padding=False).mean()
    np.testing.assert_allclose(metrics.kl[0], nats, rtol=1e-5)


def test_evaluation_is_the_weighted_sum_whatever_the_batch():
    model = leaky_sum(dropout=0.5, reads_rows=True)
    params = model.init(jax.random.key(0))
    sequences = powers(7)
    nats = losses_by_hand(np.asarray(model.apply(params, sequences[:, :-1]), np.float64), sequences[:, 1:]).sum(-1)
    log_weights = np.log(np.arange(1.0, 8.0))
    expected = (nats * np.arange(1.0, 8.0)).sum() / 28
    for batch_size in (1, 3, 7, 256):
        plain = evaluate_loss(model, params, sequences, batch_size=batch_size)
        np.testing.assert_allclose(plain.nats_per_sequence, nats.mean(), rtol=1e-5)
        np.testing.assert_allclose(plain.loss, nats.mean() / 15, rtol=1e-5)
        weighted = evaluate_loss(model, params, sequences, log_weights=log_weights, batch_size=batch_size)
        np.testing.assert_allclose(weighted.nats_per_sequence, expected, rtol=1e-5)
    moved = evaluate_loss(model, params, sequences, rows=np.arange(7)[::-1])
    assert abs(moved.loss - plain.loss) > 1e-4


def test_a_sequence_of_weight_zero_does_not_count_even_where_its_loss_is_infinite():
    model = leaky_sum()._replace(apply=lambda params, tokens, **_: jnp.where(params, 0.0, -jnp.inf)[tokens])
    forbids_a = jnp.ones((5, 5), bool).at[:, A].set(False)
    sequences = np.array([[SOS, B, EOS], [SOS, A, EOS]])
    evaluation = evaluate_loss(model, forbids_a, sequences, log_weights=np.array([0.0, -np.inf]))
    np.testing.assert_allclose(evaluation.nats_per_sequence, 2 * math.log(4), rtol=1e-6)


def make(**options):
    return make_training(leaky_sum(max_positions=7), optax.sgd(0.1), **{"sequences": SEQUENCES, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": SEQUENCES + 2}, r"sequences = 5: the model's vocabulary is 0..4"),
        ({"sequences": powers(4)}, "sequences needs 9 positions: the model has 7"),
        ({"sequences": SEQUENCES[0]}, r"sequences has shape \(8,\).*on 2 axes"),
        ({"sequences": SEQUENCES.astype(float)}, "dtype float64: it must hold integer tokens"),
        ({"sequences": SEQUENCES[:, :1]}, "one to read and one to predict"),
        ({"batch_size": 4}, "batch_size = 4: it must be a whole number from 1 to 3"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"sequences": lambda key: SEQUENCES, "batch_size": 2}, "the function that draws sequences"),
        ({"completions": COMPLETIONS}, "prompt_length is missing"),
        ({"completions": COMPLETIONS, "prompt_length": 4}, "prompt_length = 4: completions of 5 tokens leave no"),
        ({"completions": COMPLETIONS, "prompt_length": 3, "skip_first": True}, "prompt_length = 3"),
        ({"completions": COMPLETIONS, "prompt_length": 2, "completion_batch_size": 3}, "from 1 to 2"),
        ({"entropy": -1.0}, "entropy = -1.0"),
    ],
)
def test_refuses_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_refuses_regimes():
    with pytest.raises(ValueError, match="'plain' is unknown; choose one of maximum_likelihood, adversarial, oracle"):
        regime("plain")
    with pytest.raises(ValueError, match=r"pin = -0.1"):
        regime("oracle", pin=-0.1)
    with pytest.raises(ValueError, match="trains on completions number 1 and there are 0 sets"):
        make().init(jax.random.key(0), regime("oracle"))
    with pytest.raises(ValueError, match="completions number 1 and there are 1 sets"):
        make(completions=COMPLETIONS[0], prompt_length=2).init(jax.random.key(0), regime("oracle"))
    with pytest.raises(ValueError, match="num_steps = 0"):
        make().chunk(make().init(jax.random.key(0), regime("maximum_likelihood")), 0)
    with pytest.raises(ValueError, match="warmup = 0"):
        inverse_square_root(0.1, warmup=0)
