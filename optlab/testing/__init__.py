"""What an optimizer has to keep true, one property at a time, for the tests of whoever writes one.

    import pytest
    from optlab import testing

    @pytest.mark.parametrize("name", testing.PROPERTIES)
    def test_my_optimizer(name):
        testing.check(my_optimizer(1e-3), name)

A property that makes no sense of an optimizer is said to be inapplicable, with the reason, which the test then shows:
`check(tx, name, inapplicable={"complex weights have no direction": "it rounds, and real numbers only"})`.

Weights are a vector and a matrix (`SHAPES`), gradients are normal random numbers of either sign. What a transform
computes is no property: compare it with a loop of ten lines, at every step.
"""

from optlab.testing.properties import (
    PROPERTIES,
    SHAPES,
    Property,
    a_saved_state_continues_bit_for_bit,
    check,
    complex_weights_have_no_direction,
    elementwise_rules_mix_nothing,
    empty_trees_and_none_leaves_pass,
    gradients_that_are_not_finite_can_be_held_off,
    half_precision_is_computed_in_single,
    init_is_abstract,
    it_lowers_for_cpu_cuda_and_tpu,
    jit_computes_what_eager_does,
    nothing_is_traced_twice,
    numbers_are_kept_in_single_precision_or_wider,
    ordinary_numbers_make_no_nan,
    promotion_is_strict_and_nothing_warns,
    scalars_and_leaves_of_size_zero_pass,
    shardings_are_kept,
    the_state_is_a_carry_of_scan_and_cond,
    the_state_keeps_its_types,
    vmap_over_models_is_a_loop,
    what_comes_in_is_not_changed,
)

__all__ = [
    "PROPERTIES",
    "SHAPES",
    "Property",
    "a_saved_state_continues_bit_for_bit",
    "check",
    "complex_weights_have_no_direction",
    "elementwise_rules_mix_nothing",
    "empty_trees_and_none_leaves_pass",
    "gradients_that_are_not_finite_can_be_held_off",
    "half_precision_is_computed_in_single",
    "init_is_abstract",
    "it_lowers_for_cpu_cuda_and_tpu",
    "jit_computes_what_eager_does",
    "nothing_is_traced_twice",
    "numbers_are_kept_in_single_precision_or_wider",
    "ordinary_numbers_make_no_nan",
    "promotion_is_strict_and_nothing_warns",
    "scalars_and_leaves_of_size_zero_pass",
    "shardings_are_kept",
    "the_state_is_a_carry_of_scan_and_cond",
    "the_state_keeps_its_types",
    "vmap_over_models_is_a_loop",
    "what_comes_in_is_not_changed",
]
