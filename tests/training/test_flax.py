"""`train_step` trains what Flax makes, of both kinds, batch statistics and all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from test_step import ADAMW, BATCHES, assert_same

import optlab


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, use_bias=False, rngs=rngs)  # its gradient would be rounding alone
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def test_flax_nnx_with_batch_statistics(peer):
    """Statistics go through `aux`; the model that is put together again has learnt what the loop's has."""
    with peer():
        model = Net(nnx.Rngs(0))
        graph, params, statistics = nnx.split(model, nnx.Param, ...)

        def loss_fn(params, statistics, batch):
            model = nnx.merge(graph, params, statistics, copy=True)
            loss = jnp.mean((model(batch[0]) - batch[1]) ** 2)
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        tx = optlab.adamw(0.1, **ADAMW)
        step = optlab.train_step(loss_fn, tx, has_aux=True)
        ours, state, ours_statistics = jax.tree.map(jnp.copy, params), tx.init(params), statistics
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for batch in BATCHES:
            ours, state, (loss, ours_statistics) = step(ours, state, ours_statistics, batch)
            wanted, grads = nnx.value_and_grad(lambda m, b=batch: jnp.mean((m(b[0]) - b[1]) ** 2))(model)
            optimizer.update(model, grads)
            assert_same(loss, wanted)
            assert_same(ours, nnx.state(model, nnx.Param))
        assert_same(ours_statistics, nnx.state(model, nnx.Not(nnx.Param)))
        assert not np.allclose(model.norm.mean[...], 0)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=False)(linen.Dense(4, use_bias=False)(x))
        return linen.Dense(2)(linen.relu(x))


def test_flax_linen_with_batch_statistics(peer):
    module = LinenNet()
    with peer():
        variables = module.init(jax.random.key(0), BATCHES[0][0])
        tx = optlab.adamw(0.1, **ADAMW)

        def loss_fn(params, statistics, batch):
            out, new = module.apply({"params": params, "batch_stats": statistics}, batch[0], mutable=["batch_stats"])
            return jnp.mean((out - batch[1]) ** 2), new["batch_stats"]

        step = optlab.train_step(loss_fn, tx, has_aux=True)
        ours = theirs = variables["params"]
        ours = jax.tree.map(jnp.copy, ours)
        state, their_state = tx.init(ours), tx.init(theirs)
        statistics = their_statistics = variables["batch_stats"]
        for batch in BATCHES:
            ours, state, (loss, statistics) = step(ours, state, statistics, batch)
            (wanted, their_statistics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                theirs, their_statistics, batch
            )
            updates, their_state = tx.update(grads, their_state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            assert_same((ours, statistics, loss), (theirs, their_statistics, wanted))
