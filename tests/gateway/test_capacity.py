"""The sizing case prints what the design page works out by hand."""

import pytest

from interlock.gateway.domain.capacity import Load, size

SIZING_CASE = """tokens_per_minute: 6600000
tokens_per_second: 110000
requests_per_second: 66.67
output_tokens_per_second: 30000
concurrent_streams: 600
edge_cores: 0.69
edge_workers: 2
ingress_bytes_per_second: 320000
egress_bytes_per_second: 6000000
requests_per_day: 5760000
story_bytes_per_day: 6336000000"""


def test_the_sizing_case():
    assert "\n".join(size(Load(4_000, 1_200, 450)).lines()) == SIZING_CASE


def test_streams_and_workers_are_rounded_up_and_rates_half_up():
    small = size(Load(1, 1, 1))
    assert small.concurrent_streams == 1
    assert small.edge_workers == 1
    assert size(Load(15, 1, 1)).tokens_per_second == 1


@pytest.mark.parametrize("field", ["rpm", "input_tokens", "output_tokens", "stream_tokens_per_second", "us_per_event"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_load_of_nothing_is_no_load(field, value):
    with pytest.raises(ValueError, match=field):
        Load(**{"rpm": 1, "input_tokens": 1, "output_tokens": 1, field: value})
