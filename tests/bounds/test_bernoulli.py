"""kl and its inverses: closed forms, 50-digit verification of the rounding claims, corners, derivatives."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbjax.bounds import bernoulli_kl, kl_inverse, kl_inverse_lower

DTYPES = [np.float64, np.float32]


def exact_kl(q, p):
    """kl(q||p) with more than 50 correct digits, also where p and q nearly agree or are far below one."""
    q, p = mpmath.mpf(float(q)), mpmath.mpf(float(p))
    if (p == 0 and q > 0) or (p == 1 and q < 1):
        return mpmath.inf
    left = q * mpmath.log(q / p) if q > 0 else mpmath.mpf(0)
    right = (1 - q) * (mpmath.log1p(-q) - mpmath.log1p(-p)) if q < 1 else mpmath.mpf(0)
    return left + right


@pytest.fixture(autouse=True)
def digits():
    # left and right cancel to about (p - q)^2, so 50 digits of kl need that many more inside.
    with mpmath.workdps(120):
        yield


def steps(x, count):
    """x moved by `count` representable numbers (towards 1 when positive), inside [0, 1]."""
    for _ in range(abs(count)):
        x = np.nextafter(x, x.dtype.type(1 if count > 0 else 0))
    return x


def random_cases(count, dtype, *, seed):
    """(q, c) from regimes that stress different branches: uniform, tiny, near one, q = 0, q and c alike."""
    rng = np.random.default_rng(seed)
    size = count // 5
    q = [
        rng.uniform(0, 1, size),
        10 ** rng.uniform(-30, 0, size),
        1 - 10 ** rng.uniform(-7 if dtype == np.float32 else -15.9, 0, size),
        np.zeros(size),
        10 ** rng.uniform(-3, -0.3, size),
    ]
    c = [
        10 ** rng.uniform(-14, 1.6, size),
        10 ** rng.uniform(-30, 1.6, size),
        10 ** rng.uniform(-25, 1.6, size),
        10 ** rng.uniform(-30, 1.6, size),
        q[4] * 10 ** rng.uniform(-1, 1, size),
    ]
    return np.clip(np.concatenate(q), 0, 1).astype(dtype), np.concatenate(c).astype(dtype)


def check_upper(q, c):
    results = np.asarray(kl_inverse(q, c))
    assert results.dtype == q.dtype
    below = results
    for _ in range(8):
        below = np.nextafter(below, np.zeros_like(below))
    for q_, c_, p, low in zip(q, c, results, below, strict=True):
        nats = mpmath.mpf(float(c_)) if np.isfinite(c_) else mpmath.inf
        assert p >= q_
        assert p == 1 or exact_kl(q_, p) >= nats, (q_, c_, p)
        assert low <= q_ or exact_kl(q_, low) <= nats, (q_, c_, p)


@pytest.mark.parametrize("dtype", DTYPES)
def test_upper_inverse_is_safe_and_within_eight_ulp(dtype):
    check_upper(*random_cases(5_000, dtype, seed=1))  # 10^4 over both precisions


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_upper_inverse_is_safe_and_within_eight_ulp_in_1e5_cases(dtype):
    check_upper(*random_cases(100_000, dtype, seed=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverses_in_all_corners(dtype):
    q, c = corners(dtype)
    with mpmath.workdps(800):  # 1 - 1e-324 needs 324 digits before it differs from 1
        check_upper(q, c)
        for q_, c_, p in zip(q, c, np.asarray(kl_inverse_lower(q, c)), strict=True):
            nats = mpmath.mpf(float(c_)) if np.isfinite(c_) else mpmath.inf
            assert 0 <= p <= q_
            assert p == 0 or exact_kl(q_, p) >= nats or (p == q_ and c_ == 0), (q_, c_, p)
    nothing_to_spend = c == 0
    np.testing.assert_array_equal(np.asarray(kl_inverse(q, c))[nothing_to_spend], q[nothing_to_spend])
    np.testing.assert_array_equal(np.asarray(kl_inverse(q, c))[np.isinf(c)], 1.0)


def corners(dtype):
    info = np.finfo(dtype)
    smallest = info.smallest_subnormal
    qs = [0, smallest, 7 * smallest, info.tiny / 3, info.tiny, 5 * info.tiny, 1e-30, 1e-10, 0.02, 0.5, 0.9]
    qs += [1 - 3 * info.epsneg, 1 - info.epsneg, 1]
    cs = [0, smallest, 3 * smallest, info.tiny / 3, info.tiny, 9 * info.tiny, 1e-30, 1e-16, 1e-5, 1, 37, 1000]
    cs += [float(info.max), np.inf]
    q, c = np.meshgrid(np.array(qs, dtype), np.array(cs, dtype))
    return q.ravel(), c.ravel()


def test_lower_inverse_is_safe_and_tight():
    q, c = random_cases(2_000, np.float64, seed=3)
    results = np.asarray(kl_inverse_lower(q, c))
    near = results >= q / 2
    for i, (q_, c_, p) in enumerate(zip(q, c, results, strict=True)):
        assert 0 <= p <= q_
        assert p == 0 or exact_kl(q_, p) >= c_, (q_, c_, p)
        high = steps(p, 10) if near[i] else p * (1 + 1e-12)
        assert p == 0 or high >= q_ or exact_kl(q_, high) <= c_, (q_, c_, p)


def test_lower_inverse_at_one_is_an_exponential():
    c = np.array([0.1, 1.0, 30.0])
    np.testing.assert_allclose(kl_inverse_lower(1.0, c), np.exp(-c), rtol=1e-13)


@pytest.mark.parametrize(("q", "c", "p"), [(0.02, 0.05, 0.098572), (0.0, 0.01, 0.009950)])
def test_reference_values(q, c, p):
    assert abs(float(kl_inverse(q, c)) - p) < 5e-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_kl_agrees_with_fifty_digits(dtype):
    rng = np.random.default_rng(4)
    q = np.concatenate([rng.uniform(0, 1, 300), 10 ** rng.uniform(-20, 0, 300)]).astype(dtype)
    p = np.concatenate([rng.uniform(0, 1, 150), q[150:450] * (1 + 1e-4), rng.uniform(0, 1, 150)])
    p = np.clip(p, 1e-6, 1 - 1e-6).astype(dtype)
    expected = np.array([float(exact_kl(*pair)) for pair in zip(q, p, strict=True)])
    np.testing.assert_allclose(np.asarray(bernoulli_kl(q, p), np.float64), expected, rtol=12 * np.finfo(dtype).eps)


def test_kl_at_the_ends():
    q = np.array([0.0, 0.0, 1.0, 1.0, 0.3, 0.3, 0.3, 1.0, 0.0])
    p = np.array([0.0, 0.5, 1.0, 0.5, 0.0, 1.0, 0.3, 0.0, 1.0])
    half = np.log(2.0)
    np.testing.assert_allclose(bernoulli_kl(q, p), [0, half, 0, half, np.inf, np.inf, 0, np.inf, np.inf], rtol=1e-15)


@settings(max_examples=50)
@given(st.floats(0, 1), st.floats(0, 50), st.floats(0, 1))
def test_inverses_bracket_and_are_monotone(q, c, fraction):
    upper, lower = float(kl_inverse(q, c)), float(kl_inverse_lower(q, c))
    assert 0 <= lower <= q <= upper <= 1
    # Monotone up to the 8 ulp that the rounding leaves free.
    assert float(kl_inverse(q, c * fraction)) <= upper * (1 + 2e-15)
    assert float(kl_inverse_lower(q, c * fraction)) >= lower * (1 - 2e-15)


@pytest.mark.parametrize("inverse", [kl_inverse, kl_inverse_lower])
@pytest.mark.parametrize(("q", "c"), [(0.02, 0.05), (0.3, 1e-4), (0.5, 1.0), (0.9, 0.2), (1e-4, 0.01), (0.97, 0.8)])
def test_derivatives_agree_with_fifty_digit_differences(inverse, q, c):
    def solve(q, c):
        start = mpmath.mpf(float(inverse(float(q), float(c))))
        kl = lambda p: q * mpmath.log(q / p) + (1 - q) * mpmath.log((1 - q) / (1 - p)) - c  # noqa: E731
        return mpmath.findroot(kl, start, solver="newton", df=lambda p: (p - q) / (p * (1 - p)))

    q_, c_ = mpmath.mpf(q), mpmath.mpf(c)
    slopes = jax.grad(inverse, (0, 1))(q, c)
    np.testing.assert_allclose(float(slopes[0]), float(mpmath.diff(lambda x: solve(x, c_), q_)), rtol=1e-11)
    np.testing.assert_allclose(float(slopes[1]), float(mpmath.diff(lambda x: solve(q_, x), c_)), rtol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_are_finite_in_all_corners(dtype):
    q, c = map(jnp.asarray, corners(dtype))
    for function in (kl_inverse, kl_inverse_lower):
        slope_q, slope_c = jax.jit(jax.vmap(jax.grad(function, (0, 1))))(q, c)
        sign = 1 if function is kl_inverse else -1
        assert jnp.isfinite(slope_q).all()
        assert (slope_q >= 0).all()
        assert jnp.isfinite(slope_c).all()
        assert (sign * slope_c >= 0).all()
    p = jnp.clip(c, 0, 1)
    for slopes in jax.jit(jax.vmap(jax.grad(bernoulli_kl, (0, 1))))(q, p):
        assert jnp.isfinite(slopes).all()


def test_derivatives_at_the_corners_are_the_limits():
    slope = jax.jit(jax.grad(kl_inverse, (0, 1)))
    np.testing.assert_allclose(slope(0.0, 0.3)[1], np.exp(-0.3), rtol=1e-14)  # p = 1 - exp(-c)
    np.testing.assert_allclose(slope(0.0, 0.0)[1], 1.0)
    np.testing.assert_allclose(slope(0.4, 0.0)[0], 1.0, rtol=1e-12)  # p = q
    assert slope(0.4, 0.0)[1] > 1e100  # infinite: p - q grows like sqrt(c)
    assert slope(0.0, 0.3)[0] > 100  # infinite, logarithmically
    assert slope(1.0, 0.3) == (0.0, 0.0)
    assert max(slope(0.4, np.inf)) < 1e-300


def test_second_derivative_is_that_of_the_first():
    first = jax.jit(jax.grad(kl_inverse, 1))
    step = 1e-6
    expected = (first(0.1, 0.2 + step) - first(0.1, 0.2 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(first, 1))(0.1, 0.2), expected, rtol=1e-7)


@pytest.mark.parametrize("function", [kl_inverse, kl_inverse_lower])
def test_jit_and_vmap_change_nothing(function):
    q, c = random_cases(100, np.float64, seed=5)
    plain = np.asarray(function(q, c))
    np.testing.assert_array_max_ulp(np.asarray(jax.jit(jax.vmap(function))(q, c)), plain, 4)


def test_broadcasting_over_ranks():
    assert kl_inverse(np.full((3, 1), 0.1), np.full(4, 0.2)).shape == (3, 4)


def test_python_numbers_are_rounded_up_into_float32():
    with jax.enable_x64(False):
        for q in (0.1, 0.3, 0.7, 1e-3):
            upper = kl_inverse(q, 0.05)
            assert upper.dtype == jnp.float32
            assert exact_kl(q, np.float64(upper)) >= 0.05


def test_nan_is_vacuous():
    for bad in ((np.nan, 0.1), (0.1, np.nan)):
        for wrap in (lambda f: f, jax.jit):
            assert wrap(kl_inverse)(*bad) == 1.0
            assert wrap(kl_inverse_lower)(*bad) == 0.0
            assert np.isnan(wrap(bernoulli_kl)(*bad))
        assert not np.isnan(jax.grad(kl_inverse, (0, 1))(*bad)).any()


@pytest.mark.parametrize(("q", "c"), [(-0.1, 0.1), (1.1, 0.1), (0.1, -0.1)])
def test_out_of_range_is_refused_outside_jit_and_clipped_inside(q, c):
    for function in (kl_inverse, kl_inverse_lower):
        with pytest.raises(ValueError, match=r"must lie in"):
            function(q, c)
        assert jax.jit(function)(q, c) == function(min(max(q, 0.0), 1.0), max(c, 0.0))
    with pytest.raises(ValueError, match="p = "):
        bernoulli_kl(0.1, 1.5)
