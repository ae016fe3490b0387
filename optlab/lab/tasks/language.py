"""A byte-level transformer on the source of the running Python's own standard library."""

import functools
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optlab.lab.tasks.supervision import cross_entropy, functional
from optlab.lab.tasks.task import Task, require_whole, steps_between

BYTES = 256
PARTS = ("train", "validation", "test")
# Tests are the larger half of the library, and the tables in `encodings` near copies of each other: split by file, they
# would be on both sides.
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}
END_OF_FILE = b"\0"
MEASURED_WINDOWS = 128
MEASUREMENTS = 20
WARM_UP = 0.05


class Size(NamedTuple):
    """A transformer's width, layers, heads and context, and how many bytes of training source it sees at most."""

    width: int
    layers: int
    heads: int
    context: int
    training_bytes: int | None


FULL = Size(width=128, layers=6, heads=4, context=256, training_bytes=None)
SMALL = Size(width=64, layers=2, heads=4, context=64, training_bytes=2**20)


class Block(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, size: Size, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = nnx.LayerNorm(size.width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(size.heads, size.width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(size.width, rngs=rngs)
        self.up = nnx.Linear(size.width, 4 * size.width, rngs=rngs)
        self.down = nnx.Linear(4 * size.width, size.width, rngs=rngs)

    def __call__(self, values: jax.Array, mask: jax.Array) -> jax.Array:
        """(texts, bytes, width) to the same."""
        values = values + self.attention(self.attention_norm(values), mask=mask)
        return values + self.down(nnx.gelu(self.up(self.mlp_norm(values))))


class Transformer(nnx.Module):
    """A causal transformer with learned positions; its logits start near zero, so that it starts at 8 bits per byte."""

    def __init__(self, size: Size, *, rngs: nnx.Rngs) -> None:
        self.bytes = nnx.Embed(BYTES, size.width, rngs=rngs)
        self.positions = nnx.Embed(size.context, size.width, rngs=rngs)
        self.blocks = nnx.List([Block(size, rngs=rngs) for _ in range(size.layers)])
        self.norm = nnx.LayerNorm(size.width, rngs=rngs)
        self.out = nnx.Linear(size.width, BYTES, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)

    def __call__(self, text: jax.Array) -> jax.Array:
        """Logits of the byte after each, of shape (texts, bytes, 256)."""
        length = text.shape[1]
        values = self.bytes(text) + self.positions(jnp.arange(length))[None]
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
        for block in self.blocks:
            values = block(values, mask)
        return self.out(self.norm(values))


class Corpus(NamedTuple):
    """Bytes as uint8: the text to train on, and of every part the windows (128, context + 1) it is measured on."""

    text: Any
    train: Any
    validation: Any
    test: Any


class Source(NamedTuple):
    """A part of the library: its files, ordered by the hash of their paths, and their bytes one after the other."""

    files: tuple[str, ...]
    text: np.ndarray


@functools.cache
def read(folder: Path, training_bytes: int | None) -> dict[str, Source]:
    """Every `*.py` under `folder` by part: a hash of its path puts a file, whole, into one of them."""
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in _names(folder)}
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in sorted(hashes, key=hashes.__getitem__):
        tenth = int(hashes[name][-8:], 16) % 10
        parts["test" if tenth == 0 else "validation" if tenth == 1 else "train"].append(name)
    limits = {"train": training_bytes}
    return {part: _joined(folder, names, limits.get(part)) for part, names in parts.items()}


def _names(folder: Path) -> Iterator[str]:
    """Paths of the source files, relative to `folder`; of `site-packages`, which may be large, not even the names."""
    for directory, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if name not in SKIPPED]
        yield from ((Path(directory) / name).relative_to(folder).as_posix() for name in files if name.endswith(".py"))


def _joined(folder: Path, names: list[str], limit: int | None) -> Source:
    used, length, texts = [], 0, []
    for name in names:
        if limit is not None and length >= limit:
            break
        used.append(name)
        texts.append((folder / name).read_bytes() + END_OF_FILE)
        length += len(texts[-1])
    return Source(tuple(used), np.frombuffer(b"".join(texts)[:limit], np.uint8))


def evenly(text: np.ndarray, length: int) -> np.ndarray:
    """Windows of `length` bytes at equal distances through `text`."""
    starts = np.linspace(0, len(text) - length, MEASURED_WINDOWS).astype(np.int64)
    return text[starts[:, None] + np.arange(length)[None]]


def python_lm(steps: int = 5000, batch_size: int = 32) -> Task:
    """A transformer of 1,288,448 weights on all of the standard library's source, warm-up and cosine from optax.

    The data is the running Python's, read from its standard library without tests and `encodings`, and split by file: a
    tenth of the files choose the best cell, another tenth is reported. The same for every seed, which draws the initial
    weights and the batches. Bits per byte are measured on 128 windows at equal distances through each part.

    Raises:
      ValueError: this Python has no standard library in source.
    """
    return _task("python_lm", FULL, steps, batch_size)


def python_lm_small(steps: int = 3000, batch_size: int = 16) -> Task:
    """`python_lm` in a minute: a transformer of 137,216 weights on 1 MiB of the source."""
    return _task("python_lm_small", SMALL, steps, batch_size)


def _task(name: str, size: Size, steps: int, batch_size: int) -> Task:
    require_whole(name, steps=steps, batch_size=batch_size)
    window = size.context + 1
    folder = Path(sysconfig.get_paths()["stdlib"])
    source = read(folder, size.training_bytes)
    lengths = {part: len(source[part].text) for part in PARTS}
    if min(lengths.values()) < window:
        amounts = ", ".join(f"{length} bytes to {part}" for part, length in lengths.items())
        raise ValueError(
            f"{name}: too little Python source under {folder} ({amounts}); "
            "run it with a Python whose standard library is installed as .py files"
        )
    corpus = Corpus(source["train"].text, *(evenly(source[part].text, window) for part in PARTS))
    init, apply = functional(lambda rngs: Transformer(size, rngs=rngs))
    warm_up = optax.warmup_cosine_decay_schedule(0.0, 1.0, round(WARM_UP * steps), steps)

    def data(key: jax.Array) -> Corpus:
        del key
        return jax.tree.map(jnp.asarray, corpus)

    def batch(data: Corpus, key: jax.Array, step: jax.Array) -> jax.Array:
        starts = jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, len(data.text) - window + 1)
        return data.text[starts[:, None] + jnp.arange(window)[None]].astype(jnp.int32)

    def loss(params: nnx.State, batch: jax.Array) -> jax.Array:
        return cross_entropy(apply(params, batch[:, :-1]), batch[:, 1:])

    def metrics(params: nnx.State, data: Corpus) -> dict[str, jax.Array]:
        def of_one(window: jax.Array) -> jax.Array:
            return loss(params, window[None].astype(jnp.int32))

        windows = jnp.concatenate([data.train, data.validation, data.test])
        losses = jax.lax.map(of_one, windows, batch_size=batch_size)
        train, validation, test = losses.reshape(3, MEASURED_WINDOWS).mean(1)
        return {
            "train_loss": train,
            "validation_bits_per_byte": validation / np.float32(np.log(2)),
            "test_bits_per_byte": test / np.float32(np.log(2)),
        }

    return Task(
        name=name,
        description=_description(size, source, steps, batch_size),
        steps=steps,
        data=data,
        init=init,
        batch=batch,
        loss=loss,
        metrics=metrics,
        every=steps_between(steps, MEASUREMENTS),
        objective="validation_bits_per_byte",
        reported="test_bits_per_byte",
        maximize=False,
        divergence=1e2,
        schedule=lambda step: warm_up(step.astype(jnp.float32)),
    )


def _description(size: Size, source: dict[str, Source], steps: int, batch_size: int) -> str:
    """Names the bytes themselves, as they differ between Python releases and distributions."""
    digest = hashlib.sha256(b"".join(source[part].text.tobytes() for part in PARTS)).hexdigest()
    files, bytes_ = (sum(map(len, column)) for column in zip(*source.values(), strict=True))
    return (
        f"{bytes_:,} bytes in {files} files of the standard library of Python {platform.python_version()} "
        f"(sha256 {digest[:8]}), split by file; a transformer of {size.layers} layers of {size.width}, "
        f"{steps} steps of {batch_size} x {size.context} bytes, warm-up and cosine"
    )
