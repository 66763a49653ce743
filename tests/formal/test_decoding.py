"""Decoding against a loop in plain Python, with and without the cache, over replicas; when it ends; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbjax.formal.decoding import decode
from pbjax.formal.vocabulary import EOS, PAD, SOS
from pbjax.models import LanguageModel
from tests.formal.tiny_model import leaky_sum

A, B = 3, 4
PROMPTS = np.array([[SOS, A, A], [SOS, A, B], [SOS, B, A], [SOS, B, B], [SOS, A, EOS]], np.int32)


def by_hand(model, params, prompt, row, max_new):
    tokens = [int(token) for token in prompt]
    for _ in range(max_new):
        if EOS in tokens:
            tokens.append(PAD)
            continue
        logits = model.apply(params, jnp.array([tokens]), rows=jnp.array([row]))
        tokens.append(int(np.argmax(logits[0, -1])))
    return tokens


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_decoding_is_the_loop_written_out(seed, cached):
    model = leaky_sum(reads_rows=True)
    params = model.init(jax.random.key(seed))
    rows = np.array([3, 0, 4, 1, 2])
    tokens = decode(model, params, PROMPTS, max_new=6, rows=rows, cached=cached)
    assert tokens.dtype == jnp.int32
    expected = [by_hand(model, params, prompt, row, 6) for prompt, row in zip(PROMPTS, rows, strict=True)]
    np.testing.assert_array_equal(tokens, expected)


def table_model(table, counted=False):
    """Next-token logits that depend on the last token alone; the cache counts its steps and adds them to a logit."""
    table = jnp.asarray(table, jnp.float32)

    def step(params, cache, tokens):
        return params[tokens], cache

    return LanguageModel(
        init=lambda key: table, apply=lambda params, tokens, *, key=None, rows=None: params[tokens],
        start=lambda params, rows, length: jnp.zeros(rows.shape[0]), step=step, vocabulary_size=table.shape[0],
    )  # fmt: skip


def one_hot_rows(**following):
    """Logits that follow a symbol by another with certainty."""
    names = {"sos": SOS, "eos": EOS, "pad": PAD, "a": A, "b": B}
    table = np.full((5, 5), -50.0)
    for name, then in following.items():
        table[names[name], names[then]] = 50.0
    return table


def test_nothing_but_pad_follows_an_eos():
    """After EOS this model would go on with a's; a prompt that has ended already stays as it is."""
    model = table_model(one_hot_rows(a="b", b="eos", eos="a", pad="a"))
    prompts = np.array([[SOS, A], [SOS, B], [SOS, EOS]])
    tokens = decode(model, model.init(jax.random.key(0)), prompts, max_new=4)
    expected = [[SOS, A, B, EOS, PAD, PAD], [SOS, B, EOS, PAD, PAD, PAD], [SOS, EOS, PAD, PAD, PAD, PAD]]
    np.testing.assert_array_equal(tokens, expected)


def test_a_pad_that_the_model_itself_emits_does_not_end_a_string():
    model = table_model(one_hot_rows(a="pad", pad="b", b="eos"))
    tokens = decode(model, model.init(jax.random.key(0)), np.array([[SOS, A]]), max_new=4)
    np.testing.assert_array_equal(tokens, [[SOS, A, PAD, B, EOS, PAD]])


def counting_model(steps):
    """A table model that reports each step to the host, to see when the loop ends."""
    model = table_model(one_hot_rows(a="b", b="eos", eos="eos", pad="pad"))

    def step(params, cache, tokens):
        jax.debug.callback(lambda _: steps.append(1), tokens[0])
        return model.step(params, cache, tokens)

    return model._replace(step=step)


def test_the_loop_ends_with_the_last_prompt():
    """Two prompts a and b: the longer needs two tokens, so three of the hundred steps are taken, one on the prompt."""
    steps = []
    model = counting_model(steps)
    tokens = decode(model, model.init(jax.random.key(0)), np.array([[SOS, A], [SOS, B]]), max_new=100)
    jax.block_until_ready(tokens)
    jax.effects_barrier()
    assert tokens.shape == (2, 102) and len(steps) == 3


def test_the_loop_ends_with_the_last_replica_and_keeps_one_counter_for_all():
    """Under vmap no part of the loop is selected by replica: its counter and condition have no replica axis."""
    model = leaky_sum()
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
    together = jax.vmap(lambda p: decode(model, p, PROMPTS, max_new=5))
    jaxpr = str(jax.make_jaxpr(together)(params))
    assert "select_n" in jaxpr and "scatter" not in jaxpr.split("while")[-1]
    for index, tokens in enumerate(together(params)):
        own = decode(model, jax.tree.map(lambda leaf, i=index: leaf[i], params), PROMPTS, max_new=5)
        np.testing.assert_array_equal(tokens, own)


def test_replicas_that_end_at_different_times_keep_their_results():
    tables = jnp.stack([jnp.asarray(one_hot_rows(a="eos")), jnp.asarray(one_hot_rows(a="b", b="a"))])
    model = table_model(tables[0])
    keys = jax.random.split(jax.random.key(0), 2)
    for sampled in (False, True):
        tokens = jax.vmap(
            lambda table, key, sampled=sampled: decode(
                model, table, np.array([[SOS, A]]), max_new=4, key=key if sampled else None
            )
        )(tables.astype(jnp.float32), keys)
        np.testing.assert_array_equal(tokens[:, 0], [[SOS, A, EOS, PAD, PAD, PAD], [SOS, A, B, A, B, A]])


@pytest.mark.parametrize("cached", [True, False])
def test_sampled_tokens_follow_the_tempered_law(cached):
    """First tokens of 20,000 prompts against softmax(logits / T): chi-square with 4 degrees, false alarm 1e-6."""
    logits = np.array([0.0, 1.0, -0.5, 0.3, 2.0])
    model = table_model(np.tile(logits, (5, 1)))
    for temperature in (0.5, 1.0, 3.0):
        tokens = decode(
            model, model.init(jax.random.key(0)), np.full((20_000, 1), SOS), max_new=1, key=jax.random.key(7),
            temperature=temperature, cached=cached,
        )  # fmt: skip
        law = np.exp(logits / temperature)
        law /= law.sum()
        counts = np.bincount(np.asarray(tokens[:, 1]), minlength=5)
        assert ((counts - 20_000 * law) ** 2 / (20_000 * law)).sum() < 33.4


def test_sampling_draws_anew_at_each_position_and_only_from_its_key():
    model = table_model(np.where(np.arange(5) < A, -50.0, 0.0) * np.ones((5, 1)))
    prompts = np.full((4, 1), SOS)

    def draw(seed, **options):
        return np.asarray(
            decode(model, model.init(jax.random.key(0)), prompts, max_new=40, key=jax.random.key(seed), **options)
        )

    first = draw(1)
    np.testing.assert_array_equal(first, draw(1, cached=False))
    assert np.any(first != draw(2))
    # Each of the 4 rows is 40 fair coins: that any is constant, or two agree, has probability below 1e-11.
    assert np.all(np.ptp(first[:, 1:], axis=1) == 1) and len(np.unique(first, axis=0)) == 4


@settings(max_examples=10)
@given(st.floats(1e-3, 1.0))
def test_a_cold_sample_is_the_greedy_one(temperature):
    model = leaky_sum()
    params = jax.tree.map(lambda leaf: 30 * leaf, model.init(jax.random.key(3)))
    sampled = decode(
        model, params, PROMPTS, max_new=3, key=jax.random.key(0), temperature=temperature * 1e-2
    )  # fmt: skip
    np.testing.assert_array_equal(sampled, decode(model, params, PROMPTS, max_new=3))


def test_exactly_as_many_tokens_as_the_model_has_positions_for():
    model = leaky_sum(max_positions=7)
    params = model.init(jax.random.key(0))
    assert decode(model, params, PROMPTS, max_new=5).shape == (5, 8)
    with pytest.raises(ValueError, match="max_new = 6: after prompts of 3 tokens the model has positions for 5 new"):
        decode(model, params, PROMPTS, max_new=6)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (np.full((1, 8), A), {}, "prompts have 8 tokens, SOS included: the model has 7 positions"),
        (PROMPTS[:0], {}, "may not be empty"),
        (PROMPTS[:, :0], {}, "may not be empty"),
        (PROMPTS[0], {}, "on 2 axes"),
        (PROMPTS + 2, {}, r"prompts = 5: the model's vocabulary is 0..4"),
        (-PROMPTS, {}, r"prompts = -3: the model's vocabulary"),
        (PROMPTS.astype(float), {}, "integer tokens"),
        (np.array([[SOS, A, PAD]]), {}, "PAD before an EOS: all must have one length"),
        (PROMPTS, {"max_new": 0}, "max_new = 0"),
        (PROMPTS, {"temperature": 0.0}, "temperature = 0.0"),
        (PROMPTS, {"rows": np.arange(4)}, r"rows has shape \(4,\): it must be \(5,\)"),
    ],
)
def test_refuses(prompts, options, message):
    model = leaky_sum(max_positions=7)
    with pytest.raises(ValueError, match=message):
        decode(model, model.init(jax.random.key(0)), prompts, **{"max_new": 2, **options})
