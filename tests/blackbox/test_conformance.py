"""`check` passes what is what it says, by every word of its standard."""

import pytest

import optlab
from optlab import blackbox

RIGHT = {"laprop": optlab.laprop, "adamax": optlab.adamax, "amsgrad": optlab.amsgrad}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    assert blackbox.check(RIGHT[name], says=name).differences == ()
