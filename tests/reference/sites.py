"""Adam (Kingma & Ba 2015, Algorithm 1) with weight decay at each place where it can act, one float64 loop per site.

The loops are fed as those of `optimizers` are. `g` is the gradient of the loss, `size` what Adam divides by.
"""

from itertools import count

import numpy as np

from reference.optimizers import adam


def loss(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Adam of the loss plus `weight_decay/2 * |w|**2`, whose gradient is the loss's plus `weight_decay * w`."""
    return adam(w, lambda w, t: grad(w, t) + weight_decay * w, learning_rate, b1, b2, eps)


def gradient(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Both moments see the decay; torch's `Adam(weight_decay=)`."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t) + weight_decay * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        w = w - learning_rate * m / (1 - b1**t) / size
        yield w


def first_moment(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Only the first moment sees the decay."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * (g + weight_decay * w)
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        w = w - learning_rate * m / (1 - b1**t) / size
        yield w


def second_moment(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Only the second moment sees the decay."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g + weight_decay * w) ** 2
        size = np.sqrt(v / (1 - b2**t)) + eps
        w = w - learning_rate * m / (1 - b1**t) / size
        yield w


def direction(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Behind the first moment, and divided by the second."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        w = w - learning_rate * (m / (1 - b1**t) + weight_decay * w) / size
        yield w


def update(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Behind the quotient, multiplied by the learning rate; torch's and optax's AdamW."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        w = w - learning_rate * (m / (1 - b1**t) / size + weight_decay * w)
        yield w


def step(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Behind the learning rate, not multiplied by it; Loshchilov & Hutter 2019, Algorithm 2, line 12, at schedule 1."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        w = w - learning_rate * m / (1 - b1**t) / size - weight_decay * w
        yield w


def after(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """On the weights that the step has moved already; bitsandbytes' CUDA kernels."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        moved = w - learning_rate * m / (1 - b1**t) / size
        w = moved * (1 - learning_rate * weight_decay)
        yield w


def proximal(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """The proximal step of the penalty behind Adam's; Zhuang et al. 2022, AdamProx."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + eps
        moved = w - learning_rate * m / (1 - b1**t) / size
        w = moved / (1 + learning_rate * weight_decay)
        yield w
