"""AdamW built from atoms costs what optax's costs, in counts that XLA makes of the compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import optlab

TREES = {
    "one leaf of a million": {"w": (1 << 20,)},
    "64 leaves of 4 shapes": {f"w{i}": [(64, 32), (128,), (16, 4, 4), (8,)][i % 4] for i in range(64)},
}
HYPERPARAMETERS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1}


class Cost(NamedTuple):
    """Bytes accessed and flops, per parameter and step, and bytes of temporary memory."""

    bytes: float
    flops: float
    temporary: int


def cost(tx, tree, peer):
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in TREES[tree].items()}

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    with peer():
        state = jax.eval_shape(tx.init, params)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    count = sum(leaf.size for leaf in params.values())
    analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= 12 * count  # weights and both moments are updated in place
    return Cost(analysis["bytes accessed"] / count, analysis["flops"] / count, memory.temp_size_in_bytes)


def no_more_than(ours, theirs):
    """A step of a whole tree does some scalar arithmetic besides, a share below 1e-3 of the whole."""
    return (
        ours.bytes <= theirs.bytes * (1 + 1e-3)
        and ours.flops <= theirs.flops * (1 + 1e-3)
        and ours.temporary <= theirs.temporary
    )


@pytest.mark.parametrize("tree", TREES)
def test_adamw_of_atoms_costs_what_optax_adamw_costs(tree, peer):
    ours = cost(optlab.adamw(1e-3, **HYPERPARAMETERS), tree, peer)
    theirs = cost(optax.adamw(1e-3, **HYPERPARAMETERS), tree, peer)
    assert no_more_than(ours, theirs), (ours, theirs)
    assert no_more_than(theirs._replace(temporary=0), ours), (ours, theirs)
    assert round(ours.flops) == 15
    assert round(ours.bytes) == 40


def test_masks_and_schedules_cost_nothing_more(peer):
    tree = "64 leaves of 4 shapes"
    mask = {name: len(shape) > 1 for name, shape in TREES[tree].items()}
    schedule = optax.cosine_decay_schedule(1e-3, 100)
    changed = HYPERPARAMETERS | {"mask": mask}
    ours = cost(optlab.adamw(schedule, **changed), tree, peer)
    theirs = cost(optax.adamw(schedule, **changed), tree, peer)
    assert no_more_than(ours, theirs), (ours, theirs)


def test_a_wasteful_adamw_would_be_seen(peer):
    """It keeps the first average twice, the second time for nothing."""
    tree = "one leaf of a million"
    momentum = optlab.chain(optlab.scale_by_ema(0.9), optlab.bias_correct(0.9))

    @optlab.atom
    def kept_for_nothing(decay):
        def update(u, slots, w, t):
            return u, {"ema": decay * slots["ema"] + (1 - decay) * u}

        return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)})

    wasteful = optlab.chain(
        kept_for_nothing(0.9),
        optlab.scale_by_rms(0.999, 1e-8, numerator=momentum),
        optlab.add_decayed_weights(0.1),
        optlab.scale_by_learning_rate(1e-3),
    )
    theirs = cost(optax.adamw(1e-3, **HYPERPARAMETERS), tree, peer)
    ours = cost(wasteful, tree, peer)
    assert not no_more_than(ours, theirs)
    assert ours.bytes > theirs.bytes + 7  # one slot read and written
    assert ours.flops > theirs.flops + 2
