"""Decoding against a loop in plain Python, with and without the cache, over replicas; when it ends; what it refuses."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.formal.decoding import decode
from pbjax.formal.vocabulary import EOS, PAD, SOS
from pbjax.models import LanguageModel, transformer
from tests.formal.tiny_model import leaky_sum

A, B = 3, 4
PROMPTS = np.array([[SOS, A, A], [SOS, A, B], [SOS, B, A], [SOS, B, B], [SOS, A, EOS]], np.int32)


MODEL = leaky_sum(reads_rows=True)
MODEL_PARAMS = [MODEL.init(jax.random.key(seed)) for seed in range(4)]
LOGITS = jax.jit(lambda params, tokens, rows: MODEL.apply(params, tokens, rows=rows))


def by_hand(params, prompt, row, max_new):
    tokens = np.full(len(prompt) + max_new, PAD)
    tokens[: len(prompt)] = prompt
    for t in range(len(prompt), len(tokens)):
        if EOS not in tokens[:t]:
            tokens[t] = np.argmax(LOGITS(params, tokens[None], np.array([row]))[0, t - 1])
    return tokens


@pytest.mark.parametrize("cached", [True, False])
def test_greedy_decoding_is_the_loop_written_out(cached):
    rows = np.array([3, 0, 4, 1, 2])
    lengths = set()
    for params in MODEL_PARAMS:
        tokens = decode(MODEL, params, PROMPTS, max_new=6, rows=rows, cached=cached)
        assert tokens.dtype == jnp.int32
        expected = [by_hand(params, prompt, row, 6) for prompt, row in zip(PROMPTS, rows, strict=True)]
        np.testing.assert_array_equal(tokens, expected)
        lengths |= {int(length) for length in (tokens != PAD).sum(1)}
    assert len(lengths) > 2


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rotary", "batch_row"])
def test_a_transformer_decodes_with_its_cache_what_it_decodes_without(positions):
    model = transformer(5, width=6, heads=3, feed_forward=8, layers=2, positions=positions, max_positions=10)
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))

    def tokens(**options):
        return jax.vmap(lambda p: decode(model, p, PROMPTS, max_new=8, **options))(params)

    np.testing.assert_array_equal(tokens(), tokens(cached=False))
    key = jax.random.key(1)
    np.testing.assert_array_equal(tokens(key=key), tokens(key=key, cached=False))


def table_model(table):
    """Next-token logits that depend on the last token alone."""
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


def test_replicas_share_one_counter_and_one_condition():
    """A loop over replicas that end at different times would select each array of its carry, the whole cache too."""
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *MODEL_PARAMS)
    together = jax.vmap(lambda p: decode(MODEL, p, PROMPTS, max_new=6))
    found = [one for one in equations(jax.make_jaxpr(together)(params)) if one.primitive.name == "while"]
    shapes = [variable.aval.shape for variable in found[0].outvars]
    assert len(found) == 1 and shapes.count(()) == 1 and (4, 5, 9) in shapes
    alone = jnp.stack([decode(MODEL, p, PROMPTS, max_new=6) for p in MODEL_PARAMS])
    np.testing.assert_array_equal(together(params), alone)


def equations(jaxpr):
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        if equation.primitive.name != "while":
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from equations(inner)


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


@pytest.mark.parametrize("temperature", [1e-5, 1e-2])
def test_a_cold_sample_is_the_greedy_one(temperature):
    params = jax.tree.map(lambda leaf: 30 * leaf, MODEL_PARAMS[3])
    sampled = decode(MODEL, params, PROMPTS, max_new=6, key=jax.random.key(0), temperature=temperature)
    np.testing.assert_array_equal(sampled, decode(MODEL, params, PROMPTS, max_new=6))


def test_exactly_as_many_tokens_as_the_model_has_positions_for():
    model, params = MODEL._replace(max_positions=7), MODEL_PARAMS[0]
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
    with pytest.raises(ValueError, match=message):
        decode(MODEL._replace(max_positions=7), MODEL_PARAMS[0], prompts, **{"max_new": 2, **options})
