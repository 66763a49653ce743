"""What every member must pass, whatever it does: the contract of an optax transformation, and of this family."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pbjax import optim
from pbjax.runs.checkpoint import CheckpointStore
from tests.optim.members import BATCH, CASES, PARAMS, Case, grad_fn, loss, make_params

KEY = jax.random.key(7)


# One of every kind of code; the others are compositions of the same parts and run with --run-slow.
OFTEN = {"sam", "random_sam_3", "mean_field", "variational_sam_b", "m_sam", "ivon", "vogn"}


@pytest.fixture(params=[pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in sorted(CASES)])
def case(request) -> Case:
    return CASES[request.param]


def assert_close(ours, theirs, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol)


def stepped(case: Case, tx):
    """A jitted step `(params, state, key) -> (params, state)` of a transformation with the case's member in it."""

    @jax.jit
    def step(params, state, key):
        updates, state = tx.update(grad_fn(params), state, params, key=key, **case.arguments())
        return optax.apply_updates(params, updates), state

    return step


def chained(case: Case, **overrides):
    return optax.chain(case.build(**overrides), optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))


def run(case: Case, tx, steps=3, params=PARAMS):
    step, state = stepped(case, tx), tx.init(params)
    for key in jax.random.split(KEY, steps):
        params, state = step(params, state, key)
    return params, state


def test_state_keeps_its_structure_in_a_scan_under_vmap_over_seeds(case: Case):
    tx = chained(case)

    def train(key):
        first, *_ = keys = jax.random.split(key, 4)
        params = make_params(first)

        def body(carry, key):
            params, state = carry
            updates, state = tx.update(grad_fn(params), state, params, key=key, **case.arguments())
            return (optax.apply_updates(params, updates), state), loss(params, *BATCH)

        return jax.lax.scan(body, (params, tx.init(params)), keys[1:])

    keys = jax.random.split(jax.random.key(3), 2)
    (params, state), losses = jax.jit(jax.vmap(train))(keys)
    assert losses.shape == (2, 3) and np.isfinite(losses).all()
    alone, _ = jax.jit(train)(keys[1])
    assert_close(jax.tree.map(lambda leaf: leaf[1], (params, state)), alone, rtol=1e-4, atol=1e-5)


def test_unknown_arguments_are_ignored_and_passed_on(case: Case):
    tx = optax.chain(case.build(), optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    updates, _ = jax.jit(
        lambda: tx.update(
            grad_fn(PARAMS), tx.init(PARAMS), PARAMS, value=loss(PARAMS, *BATCH), unheard_of=1, key=KEY,
            **case.arguments(),
        )
    )()  # fmt: skip
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


def test_own_loop_equals_update(case: Case):
    member = case.build()
    tx = optax.chain(optax.identity(), member, optax.sgd(0.1, momentum=0.9))
    params, state = PARAMS, tx.init(PARAMS)

    @jax.jit
    def step(params, state, key):
        (value, aux), grads, state = optim.perturbed_value_and_grad(
            lambda p, x, y: (loss(p, x, y), {"mean": p["Dense_0"]["bias"].mean()}), state, params, key, *BATCH,
            member=member, has_aux=True,
        )  # fmt: skip
        updates, state = tx.update(grads, state, params, perturbed=True)
        return optax.apply_updates(params, updates), state, value, aux

    for key in jax.random.split(KEY, 3):
        params, state, value, aux = step(params, state, key)
    # VOGN keeps the auxiliary output of every example, the others that of one pass.
    assert value.shape == () and aux["mean"].shape == ((8,) if case.name == "vogn" else ())
    theirs = optax.chain(optax.identity(), case.build(), optax.sgd(0.1, momentum=0.9))
    expected, expected_state = run(case, theirs)
    assert_close(params, expected)
    ours, theirs = (jax.tree.leaves_with_path(tree) for tree in (state, expected_state))
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        if "perturbed_loss" in jax.tree_util.keystr(path):  # known here, and not where only gradients are passed
            assert jnp.isfinite(a) and jnp.isnan(b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_masked_inside_and_outside_agree(case: Case):
    kernels = jax.tree.map(lambda leaf: leaf.ndim == 2, PARAMS)
    outside = optax.masked(case.build(), kernels)
    whole = case.arguments()["grad_fn"]
    used, _ = jax.jit(
        lambda: outside.update(
            grad_fn(PARAMS), outside.init(PARAMS), PARAMS, grad_fn=optim.complete_grad_fn(whole, PARAMS), key=KEY
        )
    )()
    inside = case.build(mask=kernels)
    both, _ = jax.jit(lambda: inside.update(grad_fn(PARAMS), inside.init(PARAMS), PARAMS, key=KEY, grad_fn=whole))()
    # The hidden leaves keep the gradient that came in; the member's own mask gives them the one at the perturbed point.
    assert_close(used["readout"], grad_fn(PARAMS)["readout"])
    assert jax.tree.structure(both) == jax.tree.structure(PARAMS)
    # GSAM's orthogonal part runs over the hidden leaves too where it sees them.
    if not case.random and case.name != "gsam":
        assert_close(used["Dense_0"]["kernel"], both["Dense_0"]["kernel"], rtol=1e-4, atol=1e-5)
    split = optax.multi_transform(
        {"member": case.build(), "plain": optax.identity()},
        jax.tree.map(lambda keep: "member" if keep else "plain", kernels),
    )
    again, _ = jax.jit(
        lambda: split.update(
            grad_fn(PARAMS), split.init(PARAMS), PARAMS, grad_fn=optim.complete_grad_fn(whole, PARAMS), key=KEY
        )
    )()
    assert_close(again, used)


def test_gradient_accumulation_equals_the_whole_batch(case: Case):
    tx = optax.MultiSteps(chained(case), every_k_schedule=2)
    halves = [jax.tree.map(lambda leaf, h=half: leaf[4 * h : 4 * h + 4], BATCH) for half in range(2)]
    params, state = PARAMS, tx.init(PARAMS)
    step = jax.jit(
        lambda params, state, batch, key: tx.update(grad_fn(params, batch), state, params, key=key, **case.arguments())
    )
    for half, key in zip(halves, (jax.random.key(0), jax.random.split(KEY, 1)[0]), strict=True):
        updates, state = step(params, state, half, key)
        params = optax.apply_updates(params, updates)
    expected, _ = run(case, chained(case), steps=1)
    assert_close(params, expected, rtol=1e-4, atol=1e-5)


def test_apply_if_finite_takes_and_refuses_whole_steps(case: Case):
    tx = optax.apply_if_finite(chained(case), max_consecutive_errors=5)
    params, state = run(case, tx)
    expected, expected_state = run(case, chained(case))
    assert_close(params, expected)
    assert_close(state.inner_state, expected_state)
    bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), PARAMS)
    updates, refused = jax.jit(lambda: tx.update(bad, state, params, key=KEY, **case.arguments()))()
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(updates))
    assert_close(refused.inner_state, state.inner_state)


@pytest.mark.parametrize("bad_calls", ["perturbed", "clean"])
def test_a_gradient_that_is_not_finite_leaves_nothing_behind(case: Case, bad_calls):
    """Clean gradient fine, perturbed one with a single NaN (or the other way round): the state is as it was."""
    broken = case.arguments()["grad_fn"]

    def bad_fn(params, *part):
        grads = broken(params, *part)
        grads["readout"]["kernel"] = grads["readout"]["kernel"].at[0].set(jnp.nan)
        return grads

    tx = optim.skip_nonfinite(chained(case))
    params, state = run(case, tx)
    given = {"grad_fn": bad_fn} if bad_calls == "perturbed" else case.arguments()
    clean = grad_fn(params)
    if bad_calls == "clean":
        if not case.two_gradients or case.parts or case.name == "mean_field_then_sam":
            pytest.skip("this member does not read the incoming gradient")
        clean = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), clean)
    if bad_calls == "perturbed" and case.name == "look_sam":
        state = (state[0]._replace(count=jnp.int32(0)), *state[1:])  # a step that evaluates the second gradient
    updates, after = jax.jit(lambda: tx.update(clean, state, params, key=KEY, **given))()
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(updates))
    assert_close(after, state)
    member = case.build()
    used, kept = jax.jit(lambda: member.update(clean, state[0], params, key=KEY, **given))()
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(used)), "half a gradient would be applied"
    assert_close(kept, state[0])


def test_zero_gradient_gives_finite_updates(case: Case):
    def zero_fn(params, *part):
        return jax.tree.map(jnp.zeros_like, params)

    tx = chained(case)
    updates, state = jax.jit(lambda: tx.update(zero_fn(PARAMS), tx.init(PARAMS), PARAMS, grad_fn=zero_fn, key=KEY))()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))
    named = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree.leaves_with_path(state)}
    assert all(jnp.isfinite(leaf).all() for name, leaf in named.items() if "perturbed_loss" not in name)


def test_bfloat16_params_keep_a_float32_state(case: Case):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    tx = case.build()
    state = tx.init(half)
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    step = jax.jit(lambda s: tx.update(grad_fn(half), s, half, key=KEY, **case.arguments()))
    used, after = step(state)
    assert all(leaf.dtype == jnp.bfloat16 and jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(used))
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, after)


def test_radius_schedules_act(case: Case):
    if case.radius is None or case.learned:
        pytest.skip("the radius of this member only sets where a learned scale starts")
    scheduled = case.build(**{case.radius: lambda count: 0.1 * (count + 1)})
    state = scheduled.init(PARAMS)
    step = jax.jit(lambda s: scheduled.update(grad_fn(PARAMS), s, PARAMS, key=KEY, **case.arguments()))
    every = 2 if case.name == "look_sam" else 1
    for _ in range(1 + every):
        used, state = step(state)
    fixed = case.build(**{case.radius: 0.2})
    before = fixed.init(PARAMS)
    if case.name == "momentum_sam":
        before = before._replace(direction=jax.tree.map(lambda g: 0.1 * g, grad_fn(PARAMS)))
    if case.name == "friendly_sam":
        before = before._replace(direction=jax.tree.map(lambda g: 0.1 * g, grad_fn(PARAMS)))
    expected, _ = jax.jit(lambda s: fixed.update(grad_fn(PARAMS), s, PARAMS, key=KEY, **case.arguments()))(before)
    assert_close(used, expected, rtol=1e-4)


def test_hyperparameters_can_be_injected(case: Case):
    if case.radius is None:
        pytest.skip("no radius")
    injected = optax.inject_hyperparams(lambda value: optax.chain(case.build(**{case.radius: value}), optax.sgd(0.1)))
    params, state = run(case, injected(value=0.1))
    expected, _ = run(case, optax.chain(case.build(), optax.sgd(0.1)))
    assert_close(params, expected)
    assert float(state.hyperparams["value"]) == pytest.approx(0.1)


def test_weight_decay_and_learning_rate_never_touch_the_state(case: Case):
    """Defect 9 of the released code, for every member: decay and momentum act on the scale there."""
    results = []
    for decay, rate in ((0.0, 0.1), (0.5, 0.0)):
        tx = optax.chain(case.build(), optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9))
        _, state = run(case, tx, steps=1)
        results.append(state[0])
    assert_close(*results)


def test_sharded_equals_single_device(case: Case):
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    spread = {
        "Dense_0": {"kernel": PartitionSpec(None, "data"), "bias": PartitionSpec("data")},
        "readout": {"kernel": PartitionSpec("data")},
    }
    params = jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), PARAMS, spread)
    sharded, _ = run(case, chained(case), steps=2, params=params)
    expected, _ = run(case, chained(case), steps=2)
    assert len(sharded["readout"]["kernel"].sharding.device_set) == 4
    assert_close(sharded, expected, rtol=1e-4, atol=1e-5)


def test_checkpoints_hold_the_state(case: Case, tmp_path):
    tx = chained(case)
    params, state = run(case, tx, steps=2)
    store = CheckpointStore(tmp_path, "hash")
    store.save(2, (params, state))
    restored = store.latest((PARAMS, tx.init(PARAMS)))
    assert_close(restored.tree, (params, state))


def test_zero_radius_is_the_base_optimiser_bitwise(case: Case):
    if case.radius is None or case.learned:
        pytest.skip("a learned scale starts above zero")
    if case.parts:
        pytest.skip("a mean of parts is another sum than the whole batch's; checked in the golden tests")
    if case.name == "gsam" or case.name == "look_sam":
        pytest.skip("orthogonal parts of equal gradients are rounding; checked in the golden tests")
    tx = chained(case, **{case.radius: 0.0})
    base = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))

    @jax.jit
    def both(params, state, base_state, key):
        fn = case.arguments()["grad_fn"]
        updates, _ = tx.update(grad_fn(params), state, params, key=key, grad_fn=fn)
        expected, _ = base.update(grad_fn(params), base_state, params)
        return updates, expected

    updates, expected = both(PARAMS, tx.init(PARAMS), base.init(PARAMS), KEY)
    for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        if case.name in ("random_sam_3", "weight_perturbation"):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)  # a mean of equal gradients rounds
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_missing_is_named(case: Case):
    tx = case.build()
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="grad_fn is missing"):
        tx.update(PARAMS, state, PARAMS, key=KEY)
    if case.random:
        with pytest.raises(ValueError, match="key is missing"):
            tx.update(PARAMS, state, PARAMS, **case.arguments())
    with pytest.raises(ValueError, match="only floating-point parameters"):
        tx.init({"w": jnp.arange(3)})
    with pytest.raises(ValueError, match="perturbs nothing"):
        case.build(mask=lambda params: jax.tree.map(lambda _: False, params)).init(PARAMS)
    if case.radius is not None:
        with pytest.raises(ValueError, match=f"{case.radius} = -0.1"):
            case.build(**{case.radius: -0.1})


def test_the_battery_sees_every_member():
    """A member that is exported but not in the battery is a hole in it."""
    exported = {
        name
        for name in optim.__all__
        if inspect.isfunction(getattr(optim, name))
        and inspect.signature(getattr(optim, name)).return_annotation is optim.Member
    }
    tried = {name for name in exported if any(case.startswith(name) for case in CASES)}
    assert len(exported) > 15
    assert tried == exported - {"sharpness_aware"}, "the general constructor is tried through its members"
