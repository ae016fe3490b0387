"""What the first process of `jax.distributed` tells the others."""

import jax

from optlab.outside.jax_internals import key_value_store


def tell(subject: str, text: str) -> None:
    """Has the others `hear` the text; each subject once."""
    key_value_store().key_value_set(subject, text)


def hear(subject: str, seconds: float) -> str:
    """What the first process told of a subject, or tells within this time.

    Raises:
      TimeoutError: nothing.
    """
    try:
        return key_value_store().blocking_key_value_get(subject, round(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"process 0 has said nothing of {subject} in {seconds:g} s") from error
