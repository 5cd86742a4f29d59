"""No engine serves before it says what its reference says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.telemetry import Metrics
from interlock.scheduler import EngineConfig, EngineShelf, run_parity
from interlock.scheduler.adapters.openvino_engine import is_installed
from interlock.scheduler.adapters.parity_metrics import ParityMetrics
from interlock.scheduler.adapters.parity_run import stored_references
from interlock.scheduler.domain.completion import CompletionKind
from interlock.scheduler.domain.parity import PROMPTS, Reference, compare
from interlock.scheduler.domain.stops import StopWatch


class Planted:
    """An engine that answers from the stored outputs, but for what is planted in it."""

    model_name = "planted"
    slots = 8
    context_tokens = 2_048

    def __init__(self, change=lambda name, text, calls: text):
        self.change = change
        self.calls = 0
        self.is_closed = False
        _, known = stored_references()
        self.texts = {str(each.completion().parameters): (each.name, known[each.name].text) for each in PROMPTS}

    async def generate(self, completion):
        self.calls += 1
        name, text = self.texts.get(str(completion.parameters), ("filler", "A tale."))
        said = self.change(name, text, self.calls)
        is_chat = completion.kind is CompletionKind.CHAT
        yield {"choices": [{"delta": {"content": said}} if is_chat else {"text": said}]}

    def close(self):
        self.is_closed = True


@pytest.fixture
def shelf(tmp_path):
    return EngineShelf(
        tmp_path / "models", tmp_path / "inner.sock", EngineConfig(), clock=SystemClock(), dice=SystemDice()
    )


async def verdict_of(change, *, is_brief=False):
    _, known = stored_references()
    return await run_parity(Planted(change), "planted", known, reference_name="stored", is_brief=is_brief)


async def test_parity_catches_a_wrong_engine():
    """One wrong word late in one answer is enough, in any run; so is an answer that changes from run to run."""
    assert (await verdict_of(lambda name, text, calls: text)).passed
    for prompt in PROMPTS:
        wrong = await verdict_of(lambda name, text, calls, p=prompt: text[:-1] + "#" if name == p.name else text)
        assert not wrong.passed
        assert {each.prompt for each in wrong.refused} == {prompt.name}
    assert not (await verdict_of(lambda name, text, calls: text[:-2])).passed
    late = await verdict_of(lambda name, text, calls: text if calls <= 2 * len(PROMPTS) else f"{text} more")
    assert {each.run for each in late.refused} == {"batched"}
    assert not (await verdict_of(lambda name, text, calls: text + "x" * (calls == 20))).passed
    assert not (await verdict_of(lambda name, text, calls: "", is_brief=True)).passed


async def test_a_wrong_engine_is_not_served_and_another_takes_its_place(shelf, monkeypatch, tmp_path):
    engines = {"openvino": Planted(lambda name, text, calls: text.upper()), "xllamacpp": Planted()}
    monkeypatch.setattr(shelf, "load", engines.__getitem__)
    with pytest.raises(BrokenWorldError, match="parity_failed"):
        await shelf.serving("openvino")
    assert engines["openvino"].is_closed
    with pytest.raises(BrokenWorldError, match="failed parity before"):
        await shelf.serving("openvino")
    monkeypatch.setattr(shelf, "default", lambda: "openvino")
    assert await shelf.serving("auto") is engines["xllamacpp"]
    asked = engines["xllamacpp"].calls
    assert await shelf.serving("auto") is engines["xllamacpp"]
    assert engines["xllamacpp"].calls == asked, "a verdict that is kept is not taken again"
    metrics = Metrics()
    ParityMetrics(metrics, tmp_path / "models")
    shown = {(each.labels["backend"], each.value) for f in metrics.registry.collect() for each in f.samples}
    assert shown == {("openvino", 0.0), ("xllamacpp", 1.0)}
    states = {row.backend: (row.state, row.is_default) for row in shelf.rows()}
    assert states["xllamacpp"] == ("ready", False)


def test_two_answers_may_part_only_where_the_reference_was_undecided():
    reference = Reference("Grüße an Köln", (7, 10, 16), (2.0, 0.05, 3.0))
    assert compare("p", "r", reference, "Grüße an Köln").is_equal
    undecided = compare("p", "r", reference, "Grüße er sagt")
    assert (undecided.token, undecided.gap, undecided.is_allowed) == (2, 0.05, True)
    for text in ("Grusse", "Grüße an uns", "Grüße an", "", "Grüße an Köln hier"):
        assert not compare("p", "r", reference, text).is_allowed


def test_stored_answers_cover_all_prompts():
    sha256, known = stored_references()
    assert len(sha256) == 64
    assert set(known) == {each.name for each in PROMPTS}
    for each in known.values():
        assert len(each.ends) == len(each.gaps) <= 16
        assert each.ends[-1] >= len(each.text.encode().rstrip("�".encode()))


def test_a_backend_that_was_not_built_says_how_to_get_it(shelf):
    with pytest.raises(BrokenWorldError, match="interlock engine build"):
        shelf.load("openvino")
    row = shelf.rows()[1]
    assert row.state == ("not_built" if is_installed() else "not_installed")
    assert (row.is_default, row.path, row.parity) == (False, None, None)


@given(
    text=st.text(alphabet="abc ", max_size=40),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(1, 5), max_size=40),
)
def test_a_stop_word_ends_a_stream_wherever_it_is_cut(text, stops, cuts):
    watch, shown, rest = StopWatch(stops), "", text
    for cut in [*cuts, len(text) or 1]:
        shown += watch.feed(rest[:cut])
        rest = rest[cut:]
    shown += watch.rest()
    ends = [text.find(stop) for stop in stops if stop in text]
    assert watch.is_found is bool(ends)
    # Of two stop words that overlap, the one that is complete first ends the answer.
    assert text.startswith(shown) and not any(stop in shown for stop in stops)
    if len(stops) < 2 or not ends:
        assert shown == (text[: min(ends)] if ends else text)
