"""The test-set bound against the exact binomial tail in 50 digits."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from pbjax.bounds import kl_inverse, test_set

CASES = [
    (0, 100, 0.05),
    (1, 10, 0.5),
    (9, 10, 0.05),
    (5, 10, 0.999),
    (15, 40, 0.01),
    (200, 10_000, 0.05),
    (30_000, 60_000, 0.01),
    (59_999, 60_000, 1e-6),
    (3, 10**6, 0.025),
]


def tail(k, n, p):
    """P(Binomial(n, p) <= k) as a regularised incomplete beta function."""
    return mpmath.betainc(n - k, k + 1, 0, 1 - p, regularized=True)


@pytest.mark.parametrize(("k", "n", "delta"), [case for case in CASES if case[1] <= 100])
def test_exact_tail(k, n, delta):
    with mpmath.workdps(50):
        p = mpmath.mpf(float(test_set(k, n=n, delta=delta)))
        sum_ = lambda p: sum(mpmath.binomial(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))  # noqa: E731
        assert sum_(p) <= mpmath.mpf(delta) <= sum_(p * (1 - mpmath.mpf(1e-10)))


@pytest.mark.parametrize(("k", "n", "delta"), CASES)
def test_agrees_with_beta_quantiles(k, n, delta):
    expected = stats.beta.ppf(1 - delta, k + 1, n - k)
    np.testing.assert_allclose(float(test_set(k, n=n, delta=delta)), expected, rtol=1e-10)


@pytest.mark.parametrize(("k", "n", "delta"), CASES)
def test_float32_is_safe_and_close(k, n, delta):
    exact = float(test_set(k, n=n, delta=delta))
    with jax.enable_x64(False):
        value = test_set(k, n=n, delta=delta)
        assert value.dtype == jnp.float32
    # delta = 0.999 asks for a tail that hardly depends on p: float32 must stay further away to be safe.
    assert exact <= float(value) <= min(exact * (1 + (2e-2 if delta > 0.9 else 2e-4)), 1.0)


def test_tighter_than_chernoff_and_never_below_the_error_rate():
    k = np.array([0, 7, 50, 100])
    bound = np.asarray(test_set(k, n=100, delta=0.05))
    assert (bound <= np.asarray(kl_inverse(k / 100, np.log(20) / 100)) * (1 + 1e-13)).all()
    assert (bound >= k / 100).all()
    assert bound[-1] == 1.0


def test_jit_vmap_grad():
    k, delta = np.array([0, 3, 99, 100]), np.array([0.05, 0.1, 0.01, 0.05])
    bound = jax.jit(jax.vmap(jax.value_and_grad(lambda delta, k: test_set(k, n=100, delta=delta))))
    value, slope = bound(delta, k)
    np.testing.assert_allclose(value[:3], stats.beta.ppf(1 - delta[:3], k[:3] + 1, 100 - k[:3]), rtol=1e-10)
    np.testing.assert_allclose(slope[:3], -1 / stats.beta.pdf(value[:3], k[:3] + 1, 100 - k[:3]), rtol=1e-9)
    assert (value[3], slope[3]) == (1.0, 0.0)


def test_nan_is_vacuous():
    assert test_set(np.nan, n=100, delta=0.05) == 1.0
    assert jax.jit(test_set)(5.0, n=np.nan, delta=0.05) == 1.0
    assert test_set(5, n=100, delta=np.nan) == 1.0


@pytest.mark.parametrize(
    ("k", "n", "delta"), [(-1, 10, 0.05), (11, 10, 0.05), (0.5, 10, 0.05), (1, 0, 0.05), (1, 10, 0)]
)
def test_out_of_range_is_refused(k, n, delta):
    with pytest.raises(ValueError, match=r"errors|n = |delta"):
        test_set(k, n=n, delta=delta)
