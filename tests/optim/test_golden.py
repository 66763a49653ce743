"""Closed forms and definitions: where each member takes its gradient, and where the learned scales settle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from pbjax import optim, posteriors
from pbjax.optim import _trees as trees
from pbjax.optim.scales import learned_scale, prior_pull
from tests.optim.members import BATCH, PARAMS, grad_fn, loss, make_params, part_grad_fn

KEY = jax.random.key(11)
CLEAN = grad_fn(PARAMS)
FLAT, unflatten = ravel_pytree(PARAMS)
G = np.asarray(ravel_pytree(CLEAN)[0], np.float64)
P = FLAT.size


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], np.float64)


def gradient_at(epsilon):
    """The gradient of the test network's loss at the weights plus a flat perturbation."""
    return flat(grad_fn(unflatten(FLAT + jnp.asarray(epsilon, jnp.float32))))


def used_by(member, state=None, params=PARAMS, **extra):
    state = member.init(params) if state is None else state
    extra = {"grad_fn": grad_fn, "key": KEY, **extra}
    return jax.jit(lambda s: member.update(grad_fn(params), s, params, **extra))(state)


def test_sam_on_a_quadratic():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    h, w, rho = root @ root.T, rng.normal(size=5), 0.3
    member = optim.sam(rho)
    params = jnp.asarray(w)
    used, state = member.update(jnp.asarray(h @ w), member.init(params), params, grad_fn=lambda v: jnp.asarray(h) @ v)
    np.testing.assert_allclose(used, h @ w + rho * h @ h @ w / np.linalg.norm(h @ w), rtol=1e-6)
    assert float(state.metrics.perturbation_norm) == pytest.approx(rho, rel=1e-6)


def test_sam_is_the_opaque_normalised_sam_of_optax():
    theirs = optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), sync_period=2, opaque_mode=True
    )
    ours = optax.chain(optim.sam(0.05), optax.sgd(0.1))

    @jax.jit
    def both():
        expected, _ = theirs.update(CLEAN, theirs.init(PARAMS), PARAMS, grad_fn=lambda params, _: grad_fn(params))
        updates, _ = ours.update(CLEAN, ours.init(PARAMS), PARAMS, grad_fn=grad_fn)
        return updates, expected

    updates, expected = both()
    np.testing.assert_allclose(flat(updates), flat(expected), rtol=2e-6, atol=1e-8)


def test_sam_takes_its_gradient_at_the_ascended_point():
    used, _ = used_by(optim.sam(0.5))
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * G / np.linalg.norm(G)), rtol=1e-4, atol=1e-6)


def test_asam_scales_kernels_by_their_magnitude_and_biases_not():
    t = np.asarray(ravel_pytree(jax.tree.map(lambda w: jnp.abs(w) + 0.2 if w.ndim == 2 else 0 * w + 1.0, PARAMS))[0])
    used, _ = used_by(optim.asam(0.5, eta=0.2))
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * t**2 * G / np.linalg.norm(t * G)), rtol=1e-4, atol=1e-6)


def test_fisher_sam():
    f = 1 + 2.0 * G**2
    used, _ = used_by(optim.fisher_sam(0.5, eta=2.0))
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * G / f / np.sqrt(G @ (G / f))), rtol=1e-4, atol=1e-6)


def test_sparse_sam_perturbs_the_largest_gradients():
    kept = np.abs(G) >= np.sort(np.abs(G))[-(P // 2)]
    used, _ = used_by(optim.sparse_sam(0.5, density=0.5))
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * kept * G / np.linalg.norm(kept * G)), rtol=1e-4, atol=1e-6)


def test_mask_perturbs_and_counts_its_leaves_only():
    mask = {"Dense_0": {"kernel": True, "bias": False}, "readout": {"kernel": False}}
    kernel = flat(jax.tree.map(lambda keep, g: g if keep else jnp.zeros_like(g), mask, CLEAN))
    used, state = used_by(optim.sam(0.5, mask=mask))
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * kernel / np.linalg.norm(kernel)), rtol=1e-4, atol=1e-6)
    assert float(state.metrics.mean_scale) == pytest.approx(0.5 / np.sqrt(12), rel=1e-6)
    noisy = optim.posterior(optim.random_sam(0.5, mask=mask).init(PARAMS), PARAMS)
    assert jnp.isneginf(noisy.log_scale["readout"]["kernel"]).all()
    np.testing.assert_allclose(jnp.exp(noisy.log_scale["Dense_0"]["kernel"]), 0.5 / np.sqrt(12), rtol=1e-6)


def test_norm_only_finds_normalisation_layers():
    params = {"BatchNorm_0": {"scale": jnp.ones(2)}, "Dense_0": {"kernel": jnp.ones(2)}, "ln": {"norm": jnp.ones(1)}}
    member = optim.sam(0.1, mask=optim.norm_only)
    assert float(member.init(params).metrics.mean_scale) == pytest.approx(0.1 / np.sqrt(3), rel=1e-6)


def test_gsam_takes_off_the_orthogonal_part():
    rho, alpha = 0.5, 0.7
    perturbed = gradient_at(rho * G / np.linalg.norm(G))
    orthogonal = G - (G @ perturbed) / (perturbed @ perturbed) * perturbed
    used, _ = used_by(optim.gsam(rho, alpha=alpha))
    np.testing.assert_allclose(flat(used), perturbed - alpha * orthogonal, rtol=1e-3, atol=1e-5)
    same, _ = used_by(optim.gsam(rho, alpha=0.0))
    np.testing.assert_allclose(flat(same), perturbed, rtol=1e-4, atol=1e-6)


def test_friendly_sam_subtracts_the_previous_mean_of_clean_gradients():
    member = optim.friendly_sam(0.5, decay=0.6, weight=0.8)
    mean = unflatten(jnp.asarray(np.random.default_rng(1).normal(size=P), jnp.float32))
    used, state = used_by(member, member.init(PARAMS)._replace(direction=mean))
    own = G - 0.8 * flat(mean)
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * own / np.linalg.norm(own)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(flat(state.direction), 0.6 * flat(mean) + 0.4 * G, rtol=1e-5, atol=1e-7)


def test_momentum_sam_goes_up_the_mean_of_the_used_gradients():
    member = optim.momentum_sam(0.5, decay=0.9)
    first, state = used_by(member)
    np.testing.assert_allclose(flat(first), G, rtol=1e-5, atol=1e-7)
    used, state = used_by(member, state)
    np.testing.assert_allclose(flat(used), gradient_at(0.5 * G / np.linalg.norm(G)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(flat(state.direction), 0.09 * G + 0.1 * flat(used), rtol=1e-4, atol=1e-6)


def test_look_sam_looks_and_remembers():
    member = optim.look_sam(0.5, every=3, alpha=0.7)
    perturbed = gradient_at(0.5 * G / np.linalg.norm(G))
    used, state = used_by(member)
    np.testing.assert_allclose(flat(used), perturbed, rtol=1e-4, atol=1e-6)
    orthogonal = perturbed - (perturbed @ G) / (G @ G) * G
    np.testing.assert_allclose(flat(state.sharpness), orthogonal, rtol=1e-3, atol=1e-5)
    for _ in range(2):
        used, state = used_by(member, state)
        expected = G + 0.7 * np.linalg.norm(G) / np.linalg.norm(orthogonal) * orthogonal
        np.testing.assert_allclose(flat(used), expected, rtol=1e-3, atol=1e-5)
    used, state = used_by(member, state)
    np.testing.assert_allclose(flat(used), perturbed, rtol=1e-4, atol=1e-6)


def test_m_sam_averages_over_parts():
    used, _ = used_by(optim.m_sam(0.5, micro_batches=2), grad_fn=part_grad_fn)
    parts = []
    for part in range(2):
        g = flat(part_grad_fn(PARAMS, part))
        point = unflatten(FLAT + jnp.asarray(0.5 * g / np.linalg.norm(g), jnp.float32))
        parts.append(flat(part_grad_fn(point, part)))
    np.testing.assert_allclose(flat(used), np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)


def test_weight_perturbation_is_in_proportion_to_filters():
    member = optim.weight_perturbation(0.3, weight=0.25)
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(400, 3)) * [1.0, 5.0, 0.2], jnp.float32)}
    seen = []

    def recording(point):
        seen.append(np.asarray(point["w"] - params["w"]))
        return {"w": 3.0 * jnp.ones_like(point["w"])}

    ones = {"w": jnp.ones_like(params["w"])}
    used, _ = member.update(ones, member.init(params), params, grad_fn=recording, key=KEY)
    np.testing.assert_allclose(used["w"], 0.25 * 3 + 0.75, rtol=1e-6)
    expected = 0.3 * np.linalg.norm(params["w"], axis=0)
    # 400 draws: a standard deviation is known to 1/sqrt(800) = 3.5 %; 4.5 of those (false alarm below 1e-5 each).
    np.testing.assert_allclose(seen[0].std(axis=0), expected, rtol=4.5 / np.sqrt(800))


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 3.0])
def test_mix_sam_keeps_its_radius_and_its_mean_cosine(kappa):
    size = 10_000
    params, gradient = jnp.zeros(size), jax.random.normal(jax.random.key(1), (size,))

    def epsilon(key):
        seen = {}

        def recording(point):
            seen["epsilon"] = point
            return point

        optim.mix_sam(0.2, kappa=kappa).update(
            gradient, optim.mix_sam(0.2).init(params), params, grad_fn=recording, key=key
        )
        return seen["epsilon"]

    draws = jax.vmap(epsilon)(jax.random.split(KEY, 64))
    np.testing.assert_allclose(jnp.linalg.norm(draws, axis=1), 0.2, rtol=1e-5)
    cosines = draws @ gradient / (0.2 * jnp.linalg.norm(gradient))
    # One cosine scatters by less than 1/sqrt(P) = 0.01, their mean by 0.00125; the law itself is exact to O(1/P).
    assert float(cosines.mean()) == pytest.approx(1 / np.sqrt(1 + kappa**2), abs=5 * 0.00125 + 1e-4)


@pytest.mark.parametrize("size", [3, 1000])
def test_random_sam_has_the_mean_square_radius(size):
    params, member = jnp.zeros(size), optim.random_sam(0.4)

    def square(key):
        _, state = member.update(params, member.init(params), params, grad_fn=lambda w: w, key=key)
        return state.metrics.perturbation_norm**2

    squares = jax.vmap(square)(jax.random.split(KEY, 4000))
    # ||epsilon||^2 P / rho^2 is chi-squared with P degrees of freedom: relative error sqrt(2 / (4000 P)); 4.5 of those.
    assert float(squares.mean()) == pytest.approx(0.16, rel=4.5 * np.sqrt(2 / (4000 * size)))


def test_variational_sam_stays_on_the_posteriors_ellipsoid_and_is_sam_when_constant():
    rng = np.random.default_rng(4)
    log_scale = unflatten(jnp.asarray(rng.normal(size=P), jnp.float32))
    sigma = np.exp(flat(log_scale))
    member = optim.variational_sam(0.5, n=10, prior=1e6)
    used, _ = used_by(member, member.init(PARAMS)._replace(log_scale=log_scale))
    epsilon = np.sqrt(P) * sigma**2 * G / np.linalg.norm(sigma * G)
    assert np.sum((epsilon / sigma) ** 2) == pytest.approx(P)
    np.testing.assert_allclose(flat(used), gradient_at(epsilon), rtol=1e-3, atol=1e-4)
    constant, _ = used_by(member)
    sam, _ = used_by(optim.sam(0.5))
    np.testing.assert_allclose(flat(constant), flat(sam), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["a", "b"])
def test_variational_sam_trains_the_scale_on_the_gradient_its_form_names(form):
    n, prior, rate = 20, 0.7, 0.5
    log_scale = unflatten(jnp.asarray(0.3 * np.random.default_rng(4).normal(size=P) - 1, jnp.float32))
    sigma = np.exp(flat(log_scale))
    member = optim.variational_sam(0.5, n=n, prior=prior, form=form, scale_update=optim.reparametrised(optax.sgd(rate)))
    used, state = used_by(member, member.init(PARAMS)._replace(log_scale=log_scale))
    epsilon = np.sqrt(P) * sigma**2 * G / np.linalg.norm(sigma * G)
    perturbed = gradient_at(epsilon)
    np.testing.assert_allclose(flat(used), perturbed + flat(PARAMS) / prior**2 / n, rtol=1e-3, atol=1e-4)
    slope = (G if form == "b" else perturbed) * epsilon
    if form == "b":  # it is the derivative in ln sigma of the linearised worst case, sqrt(P) ||sigma g||
        np.testing.assert_allclose(slope, np.sqrt(P) * sigma**2 * G**2 / np.linalg.norm(sigma * G), rtol=1e-6)
    moved = flat(log_scale) - rate * (slope + (sigma**2 / prior**2 - 1) / n)
    np.testing.assert_allclose(flat(state.log_scale), moved, rtol=1e-3, atol=1e-4)


def test_mean_field_then_sam_ascends_from_the_draw():
    n, rho = 20, 0.4
    member = optim.mean_field_then_sam(
        rho, n=n, prior=1e3, initial_radius=0.6, scale_update=optim.reparametrised(optax.sgd(1.0))
    )
    seen = []

    def recording(point):
        seen.append(flat(point) - flat(PARAMS))
        return grad_fn(point)

    used, state = member.update(CLEAN, member.init(PARAMS), PARAMS, grad_fn=recording, key=KEY)
    noise, total = seen
    first = gradient_at(noise)
    np.testing.assert_allclose(total, noise + rho * first / np.linalg.norm(first), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(flat(used), gradient_at(total), rtol=1e-2, atol=1e-3)
    moved = np.log(0.6 / np.sqrt(P)) - flat(used) * noise + 1 / n
    np.testing.assert_allclose(flat(state.log_scale), moved, rtol=1e-3, atol=1e-3)


def test_zero_radius_members_that_round_equal_the_clean_gradient():
    """LookSAM remembers a direction that is rounding only: blown up to the length of g it would be noise."""
    for member in (optim.gsam(0.0), optim.m_sam(0.0, micro_batches=2), optim.look_sam(0.0, every=3)):
        state = member.init(PARAMS)
        for _ in range(2):
            used, state = used_by(member, state, grad_fn=part_grad_fn if member.micro_batches else grad_fn)
            np.testing.assert_allclose(flat(used), G, rtol=1e-4, atol=1e-6)


def test_prior_pull_is_the_gradient_of_the_kl_in_both_halves():
    """Also with a Gaussian prior of its own centre and scales, as a data-dependent prior has."""
    rng = np.random.default_rng(2)
    mean, log_scale, centre, width = (unflatten(jnp.asarray(rng.normal(size=P) * 0.5, jnp.float32)) for _ in range(4))
    everywhere = trees.resolve_mask(None, mean)
    for prior in (0.7, posteriors.Gaussian(centre, width)):
        p = prior if isinstance(prior, posteriors.Gaussian) else posteriors.Gaussian(
            jax.tree.map(jnp.zeros_like, mean), jax.tree.map(lambda s: jnp.full_like(s, jnp.log(0.7)), mean)
        )  # fmt: skip
        by_mean, by_scale = jax.grad(lambda m, s, p=p: posteriors.kl(posteriors.Gaussian(m, s), p), argnums=(0, 1))(
            mean, log_scale
        )
        pull, shrink = prior_pull(learned_scale(n=1, prior=prior), mean, jax.tree.map(jnp.exp, log_scale), everywhere)
        np.testing.assert_allclose(flat(pull), flat(by_mean), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(flat(shrink), flat(by_scale), rtol=1e-4, atol=1e-5)


UPDATES = {
    "reparametrised": lambda: optim.reparametrised(optax.sgd(0.05)),
    "natural_gradient": lambda: optim.natural_gradient(0.01),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize(("n", "prior"), [(100, 0.5), (30, 2.0)])
def test_mean_field_settles_at_the_conjugate_posterior(name, n, prior):
    """On 0.5 h (w - a)^2 an example: mu = n h a / (n h + 1/prior^2), 1/sigma^2 = n h + 1/prior^2; time averages."""
    curvature = jnp.asarray([0.01, 0.1, 1.0])
    member = optim.mean_field(0.1, n=n, prior=prior, scale_update=UPDATES[name](), samples=4)
    tx = optax.chain(member, optax.sgd(0.2))
    steps, warm = 24_000, 8_000

    def train(key):
        def body(carry, key):
            params, state = carry
            updates, state = tx.update(params, state, params, grad_fn=lambda w: curvature * (w - 1.0), key=key)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, jnp.exp(2 * state[0].log_scale))

        params = jnp.zeros(3)
        return jax.lax.scan(body, (params, tx.init(params)), jax.random.split(key, steps))[1]

    means, variances = jax.jit(jax.vmap(train))(jax.random.split(KEY, 8))
    precision = n * np.asarray(curvature) + 1 / prior**2
    replicas = means[:, warm:].mean(axis=1)
    error = replicas.std(axis=0, ddof=1) / np.sqrt(8)
    # Eight independent runs: Student's t with 7 degrees of freedom, 7 of it is a false alarm of 2e-4 a number.
    np.testing.assert_array_less(
        np.abs(replicas.mean(axis=0) - n * np.asarray(curvature) / precision), 7 * error + 1e-3
    )
    logs = 0.5 * np.log(variances[:, warm:]).mean(axis=1)
    spread = logs.std(axis=0, ddof=1) / np.sqrt(8)
    # The stationary law of ln sigma has its mean off the fixed point by O(rate); 3 % covers both rates here.
    np.testing.assert_array_less(np.abs(logs.mean(axis=0) + 0.5 * np.log(precision)), 7 * spread + 0.03)


def test_perturbed_loss_is_a_metric_where_it_is_known():
    member = optim.sam(0.5)
    _, state = member.update(
        CLEAN, member.init(PARAMS), PARAMS, value_and_grad_fn=lambda p: jax.value_and_grad(loss)(p, *BATCH)
    )
    point = unflatten(FLAT + jnp.asarray(0.5 * G / np.linalg.norm(G), jnp.float32))
    assert float(state.metrics.perturbed_loss) == pytest.approx(float(loss(point, *BATCH)), rel=1e-5)


def test_posterior_is_found_anywhere_and_goes_on_to_sampling_and_kl():
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(lambda rate: optax.chain(optim.mean_field(0.2, n=10), optax.sgd(rate)))(rate=0.1),
    )
    q = optim.posterior(tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(jnp.exp(flat(q.log_scale)), 0.2 / np.sqrt(P), rtol=1e-6)
    prior = posteriors.init(jax.tree.map(jnp.zeros_like, PARAMS), scale=1.0)
    assert float(posteriors.kl(q, prior)) > 0
    draws = posteriors.sample(KEY, q, shape=(4000,))["readout"]["kernel"]
    np.testing.assert_allclose(draws.std(axis=0), 0.2 / np.sqrt(P), rtol=5 / np.sqrt(8000))
    averaged = optim.averaged_prediction(KEY, tx.init(PARAMS), PARAMS, lambda p: p["readout"]["kernel"], samples=2000)
    np.testing.assert_allclose(averaged, PARAMS["readout"]["kernel"], atol=5 * 0.05 / np.sqrt(2000))
    with pytest.raises(ValueError, match="0 posteriors"):
        optim.posterior(optim.sam(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="2 posteriors"):
        optim.posterior((optim.random_sam(0.1).init(PARAMS), optim.random_sam(0.1).init(PARAMS)), PARAMS)


def test_perturbed_value_and_grad_wants_exactly_one_state():
    member = optim.sam(0.1)
    with pytest.raises(ValueError, match="0 states of type PerturbationState"):
        optim.perturbed_value_and_grad(loss, optax.sgd(0.1).init(PARAMS), PARAMS, None, *BATCH, member=member)
    with pytest.raises(ValueError, match="cannot be cut into 3"):
        optim.perturbed_value_and_grad(
            loss, optim.m_sam(0.1, micro_batches=3).init(PARAMS), PARAMS, None, *BATCH,
            member=optim.m_sam(0.1, micro_batches=3),
        )  # fmt: skip


def test_sixteen_seeds_are_one_program():
    traces = []

    def counting(params):
        traces.append(1)
        return grad_fn(params)

    tx = optax.chain(optim.mean_field(0.1, n=10), optax.sgd(0.1))
    params = jax.vmap(make_params)(jax.random.split(KEY, 16))
    step = jax.jit(jax.vmap(lambda p, s, k: tx.update(p, s, p, grad_fn=counting, key=k)))
    state = jax.vmap(tx.init)(params)
    for seed in range(3):
        _, state = step(params, state, jax.random.split(jax.random.key(seed), 16))
    assert len(traces) == 1


@pytest.mark.parametrize("shape", [(), (5,), (13, 7), (2, 3, 4)])
def test_standard_normals_are_those_of_jax(shape):
    keys = jax.random.split(KEY, 3)
    ours = jax.jit(jax.vmap(lambda key: optim.standard_normal(key, shape)))(keys)
    theirs = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)
    other = jax.random.key(3, impl="rbg")
    np.testing.assert_array_equal(optim.standard_normal(other, shape), jax.random.normal(other, shape, jnp.float32))
    assert optim.standard_normal(KEY, shape, jnp.float64).dtype == jnp.float64
