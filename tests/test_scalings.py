from lora_lab.findings.defaults import defaults
from lora_lab.lessons.scalings import found_scalings


def test_they_stand_from_small_to_large_and_span_a_factor_of_500():
    factors = [tool.scaling for tool in found_scalings()]
    assert factors == sorted(factors)
    assert factors[-1] / factors[0] == 512


def test_only_a_file_without_a_scaling_is_left_out():
    left_out = {*defaults()} - {tool.name for tool in found_scalings()}
    assert left_out == {"Tinker cookbook, default"}


def test_twice_the_rank_is_the_commonest():
    factors = [tool.scaling for tool in found_scalings()]
    assert max(factors, key=factors.count) == 2
