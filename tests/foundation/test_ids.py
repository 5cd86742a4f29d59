"""Ids come back as they went out, rise, and anything else is refused."""

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec, module_from_spec
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation import native
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory, MalformedIdError, created_ms, format_id, parse_id

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class StandingClock:
    def __init__(self, *moments_ms: int) -> None:
        self.moments_ms = list(moments_ms)

    def now_us(self) -> int:
        return (self.moments_ms.pop(0) if len(self.moments_ms) > 1 else self.moments_ms[0]) * 1_000


@given(st.uuids())
def test_an_id_is_crockford_base32_of_its_uuid_and_comes_back(value):
    text = format_id("req", value)
    assert text == "req_" + "".join(ALPHABET[(value.int >> shift) & 31] for shift in range(125, -1, -5))
    assert parse_id("req", text) == value


@given(st.text(max_size=30) | st.text("0123456789abcdefghijklmnopqrstuvwxyz_+- ILOU", min_size=26, max_size=26))
def test_only_the_26_characters_of_the_alphabet_are_an_id(body):
    is_id = len(body) == 26 and body[0] in "01234567" and set(body) <= set(ALPHABET)
    if is_id:
        assert format_id("req", parse_id("req", f"req_{body}")) == f"req_{body}"
    else:
        with pytest.raises(MalformedIdError):
            parse_id("req", f"req_{body}")


def test_an_id_of_another_kind_is_refused():
    text = format_id("key", UUID(int=1))
    with pytest.raises(MalformedIdError):
        parse_id("req", text)
    with pytest.raises(MalformedIdError):
        format_id("nothing", UUID(int=1))


def test_ids_rise_even_when_the_clock_steps_back_or_stands():
    ids = IdFactory(StandingClock(1_000, 999, 5, 1_000), SystemDice())
    minted = [ids.new() for _ in range(10_000)]
    assert minted == sorted(set(minted))
    assert created_ms(minted[0]) == 1_000
    assert {value.version for value in minted} == {7}


class CountedDice:
    """Chance that comes again."""

    def __init__(self) -> None:
        self.asked = 0

    def randbytes(self, count: int) -> bytes:
        self.asked += 1
        return bytes((self.asked * 31 + each * each) % 256 for each in range(count))


@given(st.lists(st.integers(0, 2**48 - 2), min_size=1, max_size=200))
def test_both_forms_mint_and_write_the_same_ids(moments_ms):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.PURE, "1")
        plain = in_python()
    both = [factory(StandingClock(*moments_ms), CountedDice()) for factory in (IdFactory, plain.IdFactory)]
    for _ in range(len(moments_ms) + 70):
        compiled, python = (each.new() for each in both)
        assert (compiled, compiled.int, compiled.is_safe, type(compiled)) == (python, python.int, python.is_safe, UUID)
        assert format_id("req", compiled) == plain.format_id("req", compiled)


def in_python():
    """Return the module anew, without its kernel."""
    spec = find_spec("interlock.foundation.ids")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_forms_of_the_clock_tell_the_same_time():
    assert SystemClock().now_us() - time.time_ns() // 1_000 < 60_000_000
    assert type(SystemClock().now_us()) is int


def test_what_is_no_uuid_of_the_standard_library_is_written_all_the_same():
    class Other(UUID):
        """As a driver has them."""

    value = UUID(int=2**128 - 1)
    assert format_id("req", Other(int=value.int)) == format_id("req", value)
    with pytest.raises(MalformedIdError):
        format_id("nothing", value)
    with pytest.raises(AttributeError):
        format_id("req", None)


def test_threads_mint_no_id_twice():
    ids = IdFactory(StandingClock(1_000), SystemDice())
    with ThreadPoolExecutor(4) as pool:
        minted = [each for made in pool.map(lambda _: [ids.new() for _ in range(5_000)], range(4)) for each in made]
    assert len(set(minted)) == 20_000
