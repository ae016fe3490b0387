"""Weight decay at every point of its space, in float64, with a condition where optlab has a link.

A core is a function of its hyperparameters that gives a function from what its numerator sees, what its denominator
sees, what is added to the numerator, and the step, to a direction and the second moment (None without one).
"""

from itertools import count

import numpy as np


def descend(w, grad, core, site, coupling, gate, target, *, learning_rate, weight_decay, eps, schedule, mask):
    """`schedule` is a function of the 1-based step, `mask` 1 or 0 for each weight."""
    origin = w if target == "init" else np.zeros_like(w)
    for t in count(1):
        eta = schedule(t)
        rate = learning_rate * eta
        away = w - origin
        pull = mask * weight_decay * away
        g = grad(w, t)
        u, v = core(
            g + pull if site in ("loss", "gradient", "first_moment") else g,
            g + pull if site in ("loss", "gradient", "second_moment") else g,
            pull if site == "direction" else 0.0,
            t,
        )
        share = mask * weight_decay * {"lr": rate, "schedule": eta, "constant": 1.0, "corrected": rate * eta}[coupling]
        if gate == "cautious":
            share = np.where(u * away >= 0, share, 0.0)
        elif gate == "stable":
            share = share / (np.sqrt(np.mean(v)) + eps)
        moved = w - rate * u
        if site in ("update", "step"):
            w = moved - share * away
        elif site == "after":
            w = moved - share * (moved - origin)
        elif site == "proximal":
            w = (moved + share * origin) / (1 + share)
        else:
            w = moved
        yield w


def sgd():
    return lambda g, h, added, t: (g, None)


def momentum(b1):
    m = 0.0

    def direction(g, h, added, t):
        nonlocal m
        m = b1 * m + (1 - b1) * g
        return m, None

    return direction


def lion(b1, b2):
    m = 0.0

    def direction(g, h, added, t):
        nonlocal m
        u = np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        return u, None

    return direction


def rmsprop(decay, eps):
    v = 0.0

    def direction(g, h, added, t):
        nonlocal v
        v = decay * v + (1 - decay) * h**2
        return (g + added) / (np.sqrt(v) + eps), v

    return direction


def adam(b1, b2, eps):
    m = v = 0.0

    def direction(g, h, added, t):
        nonlocal m, v
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * h**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        return (m_hat + added) / (np.sqrt(v_hat) + eps), v_hat

    return direction


def amsgrad(b1, b2, eps):
    m = v = largest = 0.0

    def direction(g, h, added, t):
        nonlocal m, v, largest
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * h**2
        largest = np.maximum(largest, v / (1 - b2**t))
        return (m / (1 - b1**t) + added) / (np.sqrt(largest) + eps), largest

    return direction


def laprop(b1, b2, eps):
    m = v = 0.0

    def direction(g, h, added, t):
        nonlocal m, v
        v = b2 * v + (1 - b2) * h**2
        v_hat = v / (1 - b2**t)
        m = b1 * m + (1 - b1) * (g + added) / (np.sqrt(v_hat) + eps)
        return m / (1 - b1**t), v_hat

    return direction
