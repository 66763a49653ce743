"""Losses: closed forms, ranges, derivatives at extreme logits, NaN never looks good."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from pbjax.losses import (
    bounded_cross_entropy,
    cross_entropy,
    smooth_bounded_cross_entropy,
    smoothed_cross_entropy,
    zero_one,
)

LOSSES = {
    "zero_one": zero_one,
    "cross_entropy": cross_entropy,
    "bounded": lambda *x, **k: bounded_cross_entropy(*x, p_min=1e-4, **k),
    "smooth": lambda *x, **k: smooth_bounded_cross_entropy(*x, ceiling=4.0, **k),
    "smoothed": lambda *x, **k: smoothed_cross_entropy(*x, smoothing=0.01, **k),
}
BOUNDED = ["zero_one", "bounded", "smooth"]


def examples(dtype, *, scale=10.0, n=200, k=10):
    rng = np.random.default_rng(0)
    return jnp.asarray(scale * rng.normal(size=(n, k)), dtype), jnp.asarray(rng.integers(0, k, n))


def exact(name, logits, label):
    z = [mpmath.mpf(float(x)) for x in logits]
    p = mpmath.exp(z[label]) / sum(mpmath.exp(x) for x in z)
    if name == "zero_one":
        return mpmath.mpf(int(max(range(len(z)), key=z.__getitem__) != label))
    if name == "cross_entropy":
        return -mpmath.log(p)
    if name == "smoothed":
        q = [mpmath.mpf(0.01) / (len(z) - 1)] * len(z)
        q[label] = 1 - mpmath.mpf(0.01)
        log_sum = mpmath.log(sum(mpmath.exp(x) for x in z))
        return sum(q_j * (mpmath.log(q_j) - z_j + log_sum) for q_j, z_j in zip(q, z, strict=True))
    if name == "bounded":
        return min(-mpmath.log(p) / -mpmath.log(mpmath.mpf(1e-4)), mpmath.mpf(1))
    floor = mpmath.exp(-4)
    return (-mpmath.log(floor + (1 - 2 * floor) * p) + mpmath.log(1 - floor)) / (4 + mpmath.log(1 - floor))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_formula(name, dtype):
    logits, labels = examples(dtype)
    with mpmath.workdps(50):
        expected = np.array([float(exact(name, *pair)) for pair in zip(np.asarray(logits), labels, strict=True)])
    losses = jax.jit(LOSSES[name])(logits, labels)
    assert losses.dtype == dtype
    # The small losses, p_y close to 1, keep their digits too: relative error.
    np.testing.assert_allclose(np.asarray(losses, np.float64), expected, rtol=1e-12 if dtype == jnp.float64 else 2e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_mean_is_the_mean(name):
    logits, labels = examples(jnp.float64)
    mean = LOSSES[name](logits, labels, reduction="mean")
    np.testing.assert_allclose(mean, np.mean(np.asarray(LOSSES[name](logits, labels))), rtol=1e-13)


def test_uniform_prediction():
    logits, labels = jnp.zeros((1, 10)), jnp.array([3])
    np.testing.assert_allclose(cross_entropy(logits, labels), np.log(10), rtol=1e-15)
    np.testing.assert_allclose(bounded_cross_entropy(logits, labels, p_min=1e-5), 0.2, rtol=1e-15)
    assert zero_one(logits, labels) == 1.0


def test_largest_smooth_loss_before_scaling():
    floor = np.exp(-4.0)
    scale = 4 + np.log(1 - floor)
    assert abs(scale - 3.982) < 5e-4
    p = 1 / (1 + np.e)
    loss = smooth_bounded_cross_entropy(jnp.array([[0.0, 1.0]]), jnp.array([0]), ceiling=4.0)
    np.testing.assert_allclose(loss * scale - np.log(1 - floor), -np.log(floor + (1 - 2 * floor) * p), rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", BOUNDED)
def test_range_at_extreme_logits(name, dtype):
    big = [0.0, 1.0, 30.0, 100.0, 1e3, 1e30, -np.inf]
    rows = [[a, -a if np.isfinite(a) else 0.0, 0.0] for a in big] + [[-a, a, 0.0] for a in big[:-1]]
    rows += np.random.default_rng(1).normal(scale=50, size=(1000, 3)).tolist()
    logits = jnp.asarray(rows, dtype)
    # One compilation for all: the sum's gradient, with the losses beside it.
    both = jax.jit(jax.value_and_grad(lambda x, y: ((z := LOSSES[name](x, y)).sum(), z), has_aux=True))
    for label in range(3):
        (_, losses), slopes = both(logits, jnp.full(len(rows), label))
        losses = np.asarray(losses, np.float64)
        assert (losses >= 0).all()
        assert (losses <= 1).all()
        assert jnp.isfinite(slopes).all()


@pytest.mark.parametrize("ceiling", [0.8, 4.0, 12.0])
def test_smooth_loss_reaches_both_ends(ceiling):
    logits = jnp.array([[1000.0, 0.0], [0.0, 1000.0]])
    for jit in (lambda f: f, jax.jit):
        losses = jit(lambda x: smooth_bounded_cross_entropy(x, jnp.array([0, 0]), ceiling=ceiling))(logits)
        assert losses[0] == 0.0
        assert 1 - 1e-15 <= losses[1] <= 1.0


@pytest.mark.parametrize("leading", [False, True])
def test_cross_entropy_gradient_is_softmax_minus_label_whether_or_not_the_label_leads(leading):
    logits, _ = examples(jnp.float64)
    labels = logits.argmax(-1) if leading else logits.argmin(-1)
    slopes = jax.jit(jax.grad(lambda x: cross_entropy(x, labels).sum()))(logits)
    p, hot = jax.nn.softmax(logits), jax.nn.one_hot(labels, 10)
    np.testing.assert_allclose(slopes, p - hot, rtol=1e-9, atol=1e-14)
    # The curvature along one logit: p (1 - p).
    bends = jax.jit(jax.vmap(jax.hessian(lambda x, y: cross_entropy(x, y))))(logits, labels)
    np.testing.assert_allclose(jax.vmap(jnp.diag)(bends), p * (1 - p), rtol=1e-9, atol=1e-14)
    p_min = 1e-4
    clamped = jax.grad(lambda x: bounded_cross_entropy(x, labels, p_min=p_min).sum())(logits)
    alive = (p * hot).sum(-1, keepdims=True) > p_min
    np.testing.assert_allclose(clamped, alive * (p - hot) / -np.log(p_min), rtol=1e-9, atol=1e-14)


def test_smooth_gradient_is_the_softmax_formula_and_bounded():
    logits, labels = examples(jnp.float64, scale=5.0)
    slopes = jax.jit(jax.grad(lambda x: LOSSES["smooth"](x, labels).sum()))(logits)
    p = jax.nn.softmax(logits)
    hot = jax.nn.one_hot(labels, 10)
    label_p = (p * hot).sum(-1, keepdims=True)
    floor = np.exp(-4.0)
    scale = 4 + np.log(1 - floor)
    expected = (1 - 2 * floor) * label_p * (p - hot) / (floor + (1 - 2 * floor) * label_p) / scale
    np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=1e-14)
    assert jnp.abs(slopes).max() < 1 / scale


def test_smooth_loss_has_no_kink_where_the_clamped_one_has():
    # Along a line of logits the clamped loss jumps in slope by about 1/log(1/p_min); the smooth one has a small second
    # difference everywhere.
    t = jnp.linspace(-15.0, 15.0, 30_001)
    logits = jnp.stack([t, jnp.zeros_like(t)], axis=-1)
    labels = jnp.zeros(t.size, int)
    step = float(t[1] - t[0])
    bend = lambda name: np.abs(np.diff(np.asarray(LOSSES[name](logits, labels)), 2)).max() / step  # noqa: E731
    assert bend("bounded") > 0.05
    assert bend("smooth") < 2 * step


def test_adding_a_constant_to_the_logits_changes_nothing():
    logits, labels = examples(jnp.float64)
    for loss in LOSSES.values():
        np.testing.assert_allclose(loss(logits + 64.0, labels), loss(logits, labels), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_nan_never_looks_good(name):
    logits = jnp.array([[np.nan, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, np.nan]])
    labels = jnp.array([0, 1, 1])
    losses = np.asarray(LOSSES[name](logits, labels))
    if name not in BOUNDED:
        assert np.isnan(losses[[0, 2]]).all()
    else:
        assert (losses[[0, 2]] == 1.0).all()
        slopes = jax.jit(jax.grad(lambda x: LOSSES[name](x, labels).sum()))(logits)
        assert jnp.isfinite(slopes).all()
    assert losses[1] < 0.1


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_traced_label_outside_the_classes_counts_as_wrong(name):
    logits = jnp.array([[5.0, 0.0], [5.0, 0.0]])
    losses = jax.jit(LOSSES[name])(logits, jnp.array([2, -1]))
    assert (losses >= 1.0).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_jit_vmap_and_leading_axes(name):
    logits, labels = examples(jnp.float64, n=12)
    plain = LOSSES[name](logits, labels)
    np.testing.assert_allclose(jax.jit(jax.vmap(LOSSES[name]))(logits, labels), plain, rtol=1e-14)
    batched = jax.jit(LOSSES[name])(logits.reshape(3, 4, 10), labels.reshape(3, 4))
    np.testing.assert_allclose(batched.ravel(), plain, rtol=1e-14)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_classes_on_the_first_axis(name):
    logits, labels = examples(jnp.float64, n=12)
    np.testing.assert_allclose(LOSSES[name](logits.T, labels, axis=0), LOSSES[name](logits, labels), rtol=1e-14)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), "labels = 3"),
        (np.zeros((2, 3)), np.array([0, -1]), "labels = -1"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "integer classes"),
        (np.zeros((2, 3)), np.array([0, 1, 2]), "labels has shape"),
        (np.zeros((2, 1)), np.array([0, 0]), "at least two classes"),
        (np.zeros((2, 3), int), np.array([0, 1]), "floating"),
    ],
)
def test_refusals(logits, labels, message):
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match=message):
            loss(logits, labels)


def test_parameters_out_of_range():
    logits, labels = jnp.zeros((1, 2)), jnp.array([0])
    for p_min in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="p_min"):
            bounded_cross_entropy(logits, labels, p_min=p_min)
    for ceiling in (np.log(2.0), -1.0, np.inf):
        with pytest.raises(ValueError, match="ceiling"):
            smooth_bounded_cross_entropy(logits, labels, ceiling=ceiling)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.95])
def test_smoothed_label_is_a_divergence_with_gradient_softmax_minus_target(smoothing):
    logits, labels = examples(jnp.float64, scale=3.0)
    k = logits.shape[-1]
    hot = jax.nn.one_hot(labels, k)
    target = hot * (1 - smoothing) + (1 - hot) * smoothing / (k - 1)
    log_p = jax.nn.log_softmax(logits)
    expected = jnp.sum(jax.scipy.special.xlogy(target, target) - target * log_p, axis=-1)
    loss = lambda x: smoothed_cross_entropy(x, labels, smoothing=smoothing)  # noqa: E731
    np.testing.assert_allclose(loss(logits), expected, rtol=1e-10, atol=1e-12)
    slopes = jax.jit(jax.grad(lambda x: loss(x).sum()))(logits)
    np.testing.assert_allclose(slopes, jnp.exp(log_p) - target, rtol=1e-9, atol=1e-12)
    if smoothing:
        best = loss(jnp.log(target) + 7.0)
        np.testing.assert_allclose(best, 0.0, atol=1e-12)
        assert (best >= 0).all()
    else:
        np.testing.assert_array_equal(loss(logits), cross_entropy(logits, labels))


def test_smoothing_may_be_traced_and_lies_below_one():
    logits, labels = examples(jnp.float32)
    traced = jax.jit(lambda s: smoothed_cross_entropy(logits, labels, smoothing=s, reduction="mean"))(0.1)
    np.testing.assert_allclose(
        traced, smoothed_cross_entropy(logits, labels, smoothing=0.1, reduction="mean"), rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"smoothing = 1\.0"):
        smoothed_cross_entropy(logits, labels, smoothing=1.0)


def test_smoothing_with_a_masked_class():
    # A class of probability 0 costs nothing unless the target gives it mass.
    logits, labels = jnp.array([[0.0, 1.0, -jnp.inf]]), jnp.array([0])
    call = jax.jit(jax.value_and_grad(lambda x, s: smoothed_cross_entropy(x, labels, smoothing=s, reduction="mean")))
    value, slopes = call(logits, 0.0)
    np.testing.assert_allclose(value, np.log1p(np.e), rtol=1e-12)
    np.testing.assert_allclose(slopes, jax.nn.softmax(logits) - jnp.array([[1.0, 0, 0]]), rtol=1e-12)
    assert call(logits, 0.1)[0] == jnp.inf


@pytest.mark.parametrize("smoothing", [-1.0, 1.0, 7.0])
def test_traced_smoothing_out_of_range_stays_a_divergence(smoothing):
    logits, labels = examples(jnp.float32, n=50)
    values = jax.jit(lambda s: smoothed_cross_entropy(logits, labels, smoothing=s))(smoothing)
    assert jnp.isfinite(values).all() and (values >= 0).all()
