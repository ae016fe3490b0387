"""The optimizers of the papers, one float64 NumPy loop each.

A loop takes the weights, any array, and `grad(w, t)`, the gradient at the 1-based step `t`; it yields the weights
after each step, forever. Where a paper leaves a choice open, the docstring says which one optlab's docstring makes.
"""

from itertools import count

import numpy as np


def sgd(w, grad, learning_rate):
    """Robbins & Monro 1951, with a constant learning rate."""
    for t in count(1):
        w = w - learning_rate * grad(w, t)
        yield w


def momentum(w, grad, learning_rate, b1):
    """The first moment of Kingma & Ba 2015, Algorithm 1, uncorrected, as the direction of descent."""
    m = 0.0
    for t in count(1):
        m = b1 * m + (1 - b1) * grad(w, t)
        w = w - learning_rate * m
        yield w


def heavy_ball(w, grad, learning_rate, b1):
    """Polyak 1964, the two-step method: it remembers the weights before, and no average of gradients."""
    before = w
    for t in count(1):
        before, w = w, w - learning_rate * grad(w, t) + b1 * (w - before)
        yield w


def nesterov(w, grad, learning_rate, b1):
    """Sutskever et al. 2013, equations 3 and 4; yields `w + b1*velocity`, where the next gradient is taken."""
    velocity = 0.0
    for t in count(1):
        velocity = b1 * velocity - learning_rate * grad(w + b1 * velocity, t)
        w = w + velocity
        yield w + b1 * velocity


def sgdw(w, grad, learning_rate, b1, weight_decay):
    """Loshchilov & Hutter 2019, Algorithm 1, at schedule 1 and with `learning_rate * weight_decay` for its lambda."""
    m = 0.0
    for t in count(1):
        m = b1 * m + learning_rate * grad(w, t)
        w = w - m - learning_rate * weight_decay * w
        yield w


def sign_sgd(w, grad, learning_rate):
    """Bernstein et al. 2018, Algorithm 1, signSGD."""
    for t in count(1):
        w = w - learning_rate * np.sign(grad(w, t))
        yield w


def signum(w, grad, learning_rate, b1):
    """Bernstein et al. 2018, Algorithm 2."""
    m = 0.0
    for t in count(1):
        m = b1 * m + (1 - b1) * grad(w, t)
        w = w - learning_rate * np.sign(m)
        yield w


def lion(w, grad, learning_rate, b1, b2, weight_decay):
    """Chen et al. 2023, Algorithm 2."""
    m = 0.0
    for t in count(1):
        g = grad(w, t)
        c = b1 * m + (1 - b1) * g
        w = w - learning_rate * (np.sign(c) + weight_decay * w)
        m = b2 * m + (1 - b2) * g
        yield w


def adagrad(w, grad, learning_rate, eps, initial):
    """Duchi et al. 2011, Algorithm 1, diagonal: `eps` is its delta; its sum starts at zero, this one at `initial`."""
    s = initial
    for t in count(1):
        g = grad(w, t)
        s = s + g**2
        w = w - learning_rate * g / (eps + np.sqrt(s))
        yield w


def rmsprop(w, grad, learning_rate, decay, eps):
    """Tieleman & Hinton 2012, lecture 6.5, which has no `eps`; torch's place for it, outside the root."""
    v = 0.0
    for t in count(1):
        g = grad(w, t)
        v = decay * v + (1 - decay) * g**2
        w = w - learning_rate * g / (np.sqrt(v) + eps)
        yield w


def adam(w, grad, learning_rate, b1, b2, eps):
    """Kingma & Ba 2015, Algorithm 1."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        w = w - learning_rate * m_hat / (np.sqrt(v_hat) + eps)
        yield w


def adam_l2(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Loshchilov & Hutter 2019, Algorithm 2, with the decay of line 6 and not of line 12."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t) + weight_decay * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        w = w - learning_rate * m_hat / (np.sqrt(v_hat) + eps)
        yield w


def adamw(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Loshchilov & Hutter 2019, Algorithm 2, with the decay of line 12, multiplied by the learning rate too."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        w = w - learning_rate * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w)
        yield w


def adamw_independent(w, grad, learning_rate, b1, b2, eps, weight_decay, schedule=lambda t: 1.0):
    """Loshchilov & Hutter 2019, Algorithm 2, with the decay of line 12; `schedule(t)` is the multiplier of line 11."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        w = w - schedule(t) * (learning_rate * m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w)
        yield w


def adams(w, grad, learning_rate, b1, b2, eps, weight_decay):
    """Xie et al. 2023, Algorithm 3, the mean over all of `w`; its decay has no `eps`, optlab's has."""
    m = v = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        typical = np.sqrt(v_hat.mean())
        w = w - learning_rate * m_hat / (np.sqrt(v_hat) + eps) - learning_rate / (typical + eps) * weight_decay * w
        yield w


def amsgrad(w, grad, learning_rate, b1, b2, eps):
    """Reddi et al. 2018, Algorithm 2, with Adam's `eps` and both of Adam's corrections before the maximum."""
    m = v = largest = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v / (1 - b2**t))
        w = w - learning_rate * (m / (1 - b1**t)) / (np.sqrt(largest) + eps)
        yield w


def adamax(w, grad, learning_rate, b1, b2, eps):
    """Kingma & Ba 2015, Algorithm 2, which has no `eps`; torch's and optax's place for it, inside the maximum."""
    m = norm = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        norm = np.maximum(b2 * norm, np.abs(g) + eps)
        w = w - (learning_rate / (1 - b1**t)) * m / norm
        yield w


def nadam(w, grad, learning_rate, b1, b2, eps):
    """Dozat 2016, Algorithm 2, with a constant mu and without the factor nu that its n_hat has over Adam's."""
    m = n = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        n = b2 * n + (1 - b2) * g**2
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        n_hat = n / (1 - b2**t)
        w = w - learning_rate / (np.sqrt(n_hat) + eps) * m_hat
        yield w


def laprop(w, grad, learning_rate, b1, b2, eps):
    """Ziyin et al. 2020, Algorithm 1, which averages the learning rate with the gradients."""
    m = n = 0.0
    for t in count(1):
        g = grad(w, t)
        n = b2 * n + (1 - b2) * g**2
        m = b1 * m + (1 - b1) * learning_rate * g / (np.sqrt(n / (1 - b2**t)) + eps)
        w = w - m / (1 - b1**t)
        yield w


def adabelief(w, grad, learning_rate, b1, b2, eps, eps_root):
    """Zhuang et al. 2020, Algorithm 2, with bias corrections; `eps_root` is the epsilon of its s, `eps` of its step."""
    m = s = 0.0
    for t in count(1):
        g = grad(w, t)
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
        m_hat = m / (1 - b1**t)
        s_hat = s / (1 - b2**t)
        w = w - learning_rate * m_hat / (np.sqrt(s_hat) + eps)
        yield w
