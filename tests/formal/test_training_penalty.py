"""A penalty in place of completions: steps written out, branches of one state on the same batches, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pbjax.formal.objectives import regime, sequence_loss
from pbjax.formal.training import make_training
from tests.formal.tiny_model import leaky_sum

MODEL = leaky_sum()
PROMPTS = jnp.array([[0, 4, 3], [0, 4, 4]])


def draw(key):
    """Four sequences of a's and b's with SOS in front."""
    body = jax.random.randint(key, (4, 5), 3, 5)
    return jnp.concatenate([jnp.zeros((4, 1), body.dtype), body], axis=1)


def penalty(params, key):
    """A random weight, so that the key is seen, times the loss of "a" after prompts."""
    logits = MODEL.apply(params, PROMPTS)[:, -1:]
    return jax.random.uniform(key) * sequence_loss(logits, jnp.full((2, 1), 3))


def regime_of(weight):
    return regime("maximum_likelihood")._replace(completion_weight=jnp.float32(weight))


TRAINING = make_training(MODEL, optax.sgd(0.5), sequences=draw, penalty=penalty)


@jax.jit
def both_branches(key):
    """Two plain steps, then two more with weights 0 and 0.3 from the same state."""
    state, _ = TRAINING.chunk(TRAINING.init(key, regime_of(0.0)), 2)
    branched = jax.vmap(lambda weight: state._replace(regime=regime_of(0.0)._replace(completion_weight=weight)))(
        jnp.array([0.0, 0.3], jnp.float32)
    )
    return state, *jax.vmap(lambda replica: TRAINING.chunk(replica, 2))(branched)


@pytest.mark.slow
def test_a_step_follows_the_weighted_sum_of_loss_and_penalty():
    state, after, metrics = both_branches(jax.random.key(1))
    for branch, weight in enumerate((0.0, 0.3)):
        params = state.params
        for step in range(2):
            keys = jax.random.split(jax.random.fold_in(state.key, 2 + step), 5)
            tokens = draw(keys[0])

            def objective(params, tokens=tokens, keys=keys, weight=weight):
                loss = sequence_loss(MODEL.apply(params, tokens[:, :-1]), tokens[:, 1:])
                extra = penalty(params, keys[1])
                return loss + weight * extra, (loss, extra)

            (value, (loss, extra)), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
            np.testing.assert_allclose(metrics.objective[branch, step], value, rtol=1e-5)
            np.testing.assert_allclose(metrics.loss[branch, step], loss, rtol=1e-5)
            np.testing.assert_allclose(metrics.completion[branch, step], extra, rtol=1e-5)
            params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
        jax.tree.map(
            lambda found, own, branch=branch: np.testing.assert_allclose(found[branch], own, rtol=1e-4, atol=1e-6),
            after.params, params,
        )  # fmt: skip
    assert np.any(after.params["output"][0] != after.params["output"][1])


@pytest.mark.slow
def test_weight_zero_is_plain_training_and_branches_read_the_same_batches():
    plain = make_training(MODEL, optax.sgd(0.5), sequences=draw)
    _, after, metrics = both_branches(jax.random.key(1))
    alone, _ = jax.jit(lambda key: plain.chunk(plain.init(key, regime_of(0.0)), 4))(jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-7), after.params, alone.params)
    # The first step of both starts from the same weights: equal losses mean equal batches.
    np.testing.assert_allclose(metrics.loss[0, 0], metrics.loss[1, 0], rtol=1e-6)
    np.testing.assert_allclose(metrics.completion[0, 0], metrics.completion[1, 0], rtol=1e-6)


def test_the_regime_may_name_any_set_of_completions():
    state = jax.eval_shape(lambda key: TRAINING.init(key, regime("oracle")), jax.random.key(0))
    assert state.regime.completion_weight.shape == ()
    with pytest.raises(ValueError, match="trains on completions number 1 and there are 0 sets"):
        make_training(MODEL, optax.sgd(0.5), sequences=draw).init(jax.random.key(0), regime("oracle"))
    TRAINING.init(jax.random.key(0), regime("oracle"))


def test_bad_penalties_are_refused():
    completions = np.array([[0, 3, 4, 1]], np.int32)
    with pytest.raises(ValueError, match="leave one of them out"):
        make_training(
            MODEL, optax.sgd(0.5), sequences=draw, penalty=penalty, completions=completions, prompt_length=1
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"penalty has shape \(2,\)"):
        make_training(MODEL, optax.sgd(0.5), sequences=draw, penalty=lambda params, key: jnp.zeros(2))
