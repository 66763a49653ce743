"""Objectives against sums written out, chunks bit for bit, regimes and optimisers in one program, steering to a pin."""

import math
from functools import partial

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
# Completions of the prompts "ba" and "bb" (with SOS), which the data never show: one b more, or an end at once.
COMPLETIONS = np.array(
    [[[SOS, B, A, B, EOS], [SOS, B, B, B, EOS]], [[SOS, B, A, EOS, PAD], [SOS, B, B, EOS, PAD]]], np.int32
)


MODEL = leaky_sum()


@jax.jit
def data_value_and_grad(params):
    return jax.value_and_grad(lambda p: sequence_loss(MODEL.apply(p, SEQUENCES[:, :-1]), SEQUENCES[:, 1:]))(params)


def run(training, num_steps, *, name="maximum_likelihood", seed=0):
    """The state before and after, and the metrics; one program."""

    @jax.jit
    def both(key):
        state = training.init(key, regime(name))
        return state, *training.chunk(state, num_steps)

    return both(jax.random.key(seed))


def assert_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def losses_by_hand(logits, targets):
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0]


@jax.jit
def all_losses(logits, targets):
    return (
        sequence_loss(logits, targets),
        sequence_loss(logits, targets, include_padding=False),
        nats_per_sequence(logits, targets),
        nats_per_sequence(logits, targets, include_padding=False),
        completion_loss(logits, targets, prompt_length=1),
        completion_loss(logits, targets, prompt_length=1, skip_first=True),
        completion_loss(logits, targets, prompt_length=1, include_padding=False),
    )


@settings(max_examples=30)
@given(
    hnp.arrays(np.float64, (2, 5, 4), elements=st.floats(-5, 5)),
    hnp.arrays(np.int32, (2, 5), elements=st.integers(0, 3)),
)
def test_losses_are_the_sums_written_out(logits, targets):
    losses, counted = losses_by_hand(logits, targets), targets != PAD

    def mean(values, weights):
        return (values * weights).sum() / weights.sum() if weights.any() else np.nan

    expected = (
        losses.mean(), mean(losses, counted), losses.sum(-1), (losses * counted).sum(-1), losses[:, 1:].mean(),
        losses[:, 2:].mean(), mean(losses[:, 1:], counted[:, 1:]),
    )  # fmt: skip
    for found, value in zip(all_losses(logits, targets), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-14)


def test_the_first_token_after_the_prompt_is_target_m():
    """Of "SOS b a | b EOS" with m = 2, the b is target 2: it has a gradient, and with `skip_first` it has none."""
    targets = jnp.asarray(COMPLETIONS[0, :1, 1:])
    for skip_first, expected in ((False, [0, 0, 1, 1]), (True, [0, 0, 0, 1])):
        gradient = jax.jit(jax.grad(partial(completion_loss, prompt_length=2, skip_first=skip_first)))
        slopes = np.abs(gradient(jnp.zeros((1, 4, 5)), targets)[0]).sum(-1)
        np.testing.assert_array_equal(slopes > 0, np.array(expected, bool))


def test_pinned_loss_has_its_minimum_at_the_pin_and_one_pull_far_from_it():
    at = partial(pinned_loss, 0.3, pin=0.25, completion_weight=2.0, pin_weight=3.0, pin_width=0.2)
    slope = jax.grad(at)
    expected = [0.0, 1.5, -1.5, 3.0, 3.0, -3.0]
    np.testing.assert_allclose([slope(kl) for kl in (0.25, 0.35, 0.15, 0.5, 100.0, 0.0)], expected, atol=1e-6)
    np.testing.assert_allclose([at(0.35), at(1.25)], [0.6 + 3 * 0.1**2 / 0.4, 0.6 + 3 * 0.9], rtol=1e-6)
    np.testing.assert_allclose(at(0.45 + 1e-7), at(0.45 - 1e-7), atol=1e-5)


def test_schedule_at_its_landmarks():
    schedule = inverse_square_root(0.002, warmup=1000)
    steps = np.array([0, 1, 999, 1000, 1001, 4000, 49_000])
    expected = 0.002 * np.minimum(steps / 1000, np.sqrt(1000 / np.maximum(steps, 1)))
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(steps)), expected, rtol=1e-6)


def test_plain_steps_are_adamw_on_the_mean_loss():
    optimiser = optax.adamw(inverse_square_root(0.1, warmup=2))
    before, after, metrics = run(make_training(MODEL, optimiser, sequences=SEQUENCES), 3)
    params, optimiser_state = before.params, optimiser.init(before.params)
    update = jax.jit(optimiser.update)
    for step in range(3):
        value, gradient = data_value_and_grad(params)
        np.testing.assert_allclose(metrics.loss[step], value, rtol=1e-5)
        updates, optimiser_state = update(gradient, optimiser_state, params)
        params = optax.apply_updates(params, updates)
    assert_close(after.params, params)
    assert np.any(after.params["output"] != before.params["output"])


COMPLETING = {"completions": COMPLETIONS, "prompt_length": 2, "completion_batch_size": 1}
PROGRAMS = {
    "adamw, whole set": (optax.adamw(inverse_square_root(0.1, warmup=3)), "maximum_likelihood", {}),
    "sam, minibatches": (optax.chain(optim.sam(0.05), optax.adam(0.1)), "maximum_likelihood", {"batch_size": 2}),
    "ivon, completions": (optim.ivon(0.1, n=3), "oracle", COMPLETING),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("ivon") else []) for name in PROGRAMS]
)
def test_two_chunks_of_five_are_one_of_ten_bitwise(name):
    optimiser, of_regime, options = PROGRAMS[name]
    training = make_training(leaky_sum(dropout=0.2, reads_rows=True), optimiser, sequences=SEQUENCES, **options)
    state = training.init(jax.random.key(0), regime(of_regime))
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
    optimiser = optax.chain(optim.sam(0.3), optax.sgd(1.0))
    before, after, _ = run(make_training(MODEL, optimiser, sequences=SEQUENCES), 1)
    gradient = data_value_and_grad(before.params)[1]
    length = optax.tree.norm(gradient)
    ascended = jax.tree.map(lambda w, g: w + 0.3 * g / length, before.params, gradient)
    slope = data_value_and_grad(ascended)[1]
    assert_close(after.params, jax.tree.map(jnp.subtract, before.params, slope))


@pytest.mark.slow
def test_both_gradients_of_sam_meet_the_same_dropout():
    """At radius 0 the second gradient is the first, also with dropout: SAM is then its base optimiser."""
    after = []
    for optimiser in (optax.sgd(0.5), optax.chain(optim.sam(0.0), optax.sgd(0.5))):
        training = make_training(leaky_sum(dropout=0.5), optimiser, sequences=SEQUENCES, batch_size=2)
        after.append(run(training, 3)[1].params)
    assert_close(*after)


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


def test_regimes_learn_their_completions_and_pinned_ones_end_at_one_loss():
    """Each regime finds its own completions likely and the other's not. All fit the data; with a pin, all stop at 1 nat
    a sequence above the entropy instead, save for what the completions still gain there."""
    model = leaky_sum(width=24, dropout=0.1)
    training = make_training(
        model, optax.adam(optax.cosine_decay_schedule(0.05, 800)), sequences=SEQUENCES, completions=COMPLETIONS,
        prompt_length=2, entropy=math.log(3), sequence_dropout=False,
    )  # fmt: skip
    names = ("maximum_likelihood", *COMPLETION_REGIMES)
    regimes = stacked(*(regime(name) for name in names), *(regime(name, pin=1.0) for name in names))
    keys = jnp.repeat(jax.random.key(5)[None], 6)

    def losses(params):
        logits = model.apply(params, COMPLETIONS[..., :-1].reshape(4, -1)).reshape(2, 2, 4, 5)
        own = [completion_loss(logits[i], COMPLETIONS[i, :, 1:], prompt_length=2) for i in range(2)]
        return evaluate_loss(model, params, SEQUENCES).nats_per_sequence - math.log(3), jnp.stack(own)

    state, metrics = jax.jit(jax.vmap(lambda k, r: training.chunk(training.init(k, r), 800)))(keys, regimes)
    kl, completion = jax.jit(jax.vmap(losses))(state.params)
    np.testing.assert_allclose(metrics.kl[:, -1], kl, atol=0.02)
    assert np.all(kl[:3] < 0.1)
    np.testing.assert_allclose(kl[3], 1.0, atol=1e-3)
    assert np.all((kl[4:] > 1.0) & (kl[4:] < 1.1))
    for adversarial, oracle in ((1, 2), (4, 5)):
        assert completion[adversarial, 0] < 0.5 < 0.8 < completion[adversarial, 1]
        assert completion[oracle, 1] < 0.5 < 0.8 < completion[oracle, 0]


@pytest.mark.slow
def test_a_minibatch_epoch_reads_every_sequence_once():
    """A model whose loss names the sequence it reads: with three of three in batches of one, an epoch is a shuffle."""
    before, _, metrics = run(make_training(MODEL, optax.sgd(0.0), sequences=SEQUENCES, batch_size=1), 12)
    own = nats_per_sequence(MODEL.apply(before.params, SEQUENCES[:, :-1]), SEQUENCES[:, 1:])
    epochs = np.asarray(metrics.kl).reshape(4, 3)
    np.testing.assert_allclose(np.sort(epochs), np.tile(np.sort(own), (4, 1)), rtol=1e-5)
    assert len({tuple(order) for order in np.argsort(epochs)}) > 1


@pytest.mark.parametrize(("shuffle", "values"), [(False, {1}), (True, range(3, 7))])
def test_rows_are_shuffled_only_when_asked(shuffle, values):
    """Three sequences on three rows have six values of the loss; eight draws miss more than three of them with
    probability below 0.013, and never for this seed."""
    model = leaky_sum(reads_rows=True)
    metrics = run(make_training(model, optax.sgd(0.0), sequences=SEQUENCES, shuffle_rows=shuffle), 8)[2]
    assert len(np.unique(np.round(metrics.loss, 6))) in values


def test_fresh_sequences_are_drawn_at_each_step():
    def draw(key):
        return jnp.asarray(SEQUENCES)[jax.random.randint(key, (2,), 0, 3)]

    metrics = run(make_training(MODEL, optax.sgd(0.0), sequences=draw), 10)[2]
    assert len(np.unique(metrics.loss)) > 2


@pytest.mark.slow
def test_padding_is_left_out_of_every_part_when_asked():
    training = make_training(
        MODEL, optax.sgd(0.0), sequences=SEQUENCES, completions=COMPLETIONS, prompt_length=2, include_padding=False
    )
    before, _, metrics = run(training, 1, name="oracle")
    found = all_losses(MODEL.apply(before.params, SEQUENCES[:, :-1]), SEQUENCES[:, 1:])
    np.testing.assert_allclose([metrics.loss[0], metrics.kl[0]], [found[1], found[3].mean()], rtol=1e-5)
    logits = MODEL.apply(before.params, COMPLETIONS[1, :, :-1])
    expected = completion_loss(logits, COMPLETIONS[1, :, 1:], prompt_length=2, include_padding=False)
    np.testing.assert_allclose(metrics.completion[0], expected, rtol=1e-5)


def test_evaluation_is_the_weighted_sum_whatever_the_batch():
    model = leaky_sum(dropout=0.5, reads_rows=True)
    params = model.init(jax.random.key(0))
    sequences, weights = powers(7), np.arange(1.0, 8.0)
    nats = losses_by_hand(np.asarray(model.apply(params, sequences[:, :-1]), np.float64), sequences[:, 1:]).sum(-1)
    for batch_size in (3, 256):
        plain, weighted = jax.jit(
            lambda p, size=batch_size: [
                evaluate_loss(model, p, sequences, log_weights=log_weights, batch_size=size)
                for log_weights in (None, np.log(weights))
            ]
        )(params)
        np.testing.assert_allclose(plain.nats_per_sequence, nats.mean(), rtol=1e-5)
        np.testing.assert_allclose(plain.loss, nats.mean() / 15, rtol=1e-5)
        np.testing.assert_allclose(weighted.nats_per_sequence, (nats * weights).sum() / weights.sum(), rtol=1e-5)
    moved = evaluate_loss(model, params, sequences, rows=np.arange(7)[::-1])
    assert abs(moved.loss - plain.loss) > 1e-4


def test_a_sequence_of_weight_zero_does_not_count_even_where_its_loss_is_infinite():
    model = leaky_sum()._replace(apply=lambda params, tokens, **_: jnp.where(params, 0.0, -jnp.inf)[tokens])
    forbids_a = jnp.ones((5, 5), bool).at[:, A].set(False)
    sequences = np.array([[SOS, B, EOS], [SOS, A, EOS]])
    evaluation = evaluate_loss(model, forbids_a, sequences, log_weights=np.array([0.0, -np.inf]))
    np.testing.assert_allclose(evaluation.nats_per_sequence, 2 * math.log(4), rtol=1e-6)


def test_weights_that_weigh_nothing_are_refused():
    model, weights = leaky_sum(), {"all impossible": [-np.inf] * 2, "nan": [0.0, np.nan], "infinite": [0.0, np.inf]}
    params = model.init(jax.random.key(0))
    sequences = np.array([[SOS, B, EOS], [SOS, A, EOS]])
    for log_weights in weights.values():
        with pytest.raises(ValueError, match="none may be NaN or"):
            evaluate_loss(model, params, sequences, log_weights=np.array(log_weights))
        traced = jax.jit(lambda w: evaluate_loss(model, params, sequences, log_weights=w))(jnp.array(log_weights))
        assert np.isnan(traced.loss)


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
