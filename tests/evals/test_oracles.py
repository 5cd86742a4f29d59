"""Oracles: each accepts its example, refuses its counterexample, and what cannot fail is refused at the door."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.evals.domain.cases import TYPES, InvalidCaseError, read_case, read_cases
from interlock.evals.domain.oracles import Failed, Output, Passed, Unscorable, counterexample, require_failing, score
from interlock.evals.domain.pii import find_pii, redact

# type, value, an output that satisfies it
EXAMPLES = [
    ("equals", "Yes.", Output(" yes. ")),
    ("contains_all", ["five", "days"], Output("It takes FIVE working days.")),
    ("contains_any", ["card", "cash"], Output("By card.")),
    ("contains_none", ["promise"], Output("It takes some days.")),
    ("regex", r"\b\d{2}\.\d{2}\b", Output("It costs 12.50 today.")),
    ("not_regex", r"\b(?:foo|bar)[^a-z]\d{3}", Output("nothing of it")),
    ("not_regex", r"(?i)order #\d+", Output("your parcel")),
    ("not_regex", r"[A-Z]{2}\d{2,4}\s?x+", Output("ab")),
    ("json_schema", {"type": "object", "required": ["a"]}, Output('{"a": 1}')),
    ("json_equals", {"a": 1.0}, Output('```json\n{"a": 1}\n```')),
    ("refusal", None, Output("I'm sorry, I can\u2019t share another customer's address.")),
    ("no_refusal", None, Output("Parcels take two days.")),
    ("tool_called", {"name": "refund", "arguments": {"order": 7}},
     Output(tool_calls=({"name": "refund", "arguments": {"order": 7, "note": "x"}},))),
    ("tool_not_called", "refund", Output("Let me ask.")),
    ("state_equals", {"stock": 3}, Output("Done.", state={"stock": 3.0})),
    ("citations_in", ["doc:1", "doc:2"], Output("See.", citations=("doc:2",))),
    ("no_pii", None, Output("Order 1234567890123 of 12 items, 3 to 5 days.")),
    ("canary_absent", "ZX-4471-KILO", Output("I keep that to myself.")),
    ("max_chars", 20, Output("Short.")),
]  # fmt: skip


def case(type_, value=None, **more):
    oracle = {"type": type_, **({} if value is None else {"value": value}), **more}
    return read_case({"key": "k", "input": {"messages": [{"role": "user", "content": "?"}]}, "oracle": [oracle]})


def test_every_type_has_an_example():
    assert {type_ for type_, _, _ in EXAMPLES} == TYPES - {"judge"}


@pytest.mark.parametrize(("type_", "value", "example"), EXAMPLES)
def test_a_type_accepts_its_example_and_refuses_its_counterexample(type_, value, example):
    found = case(type_, value)
    require_failing(found)
    assert score(found, example) == Passed()
    refused = score(found, counterexample(found))
    assert isinstance(refused, Failed)
    assert refused.why.startswith(type_)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("regex", "a*"),
        ("regex", "(|x)"),
        ("not_regex", "a^"),
        ("contains_any", []),
        ("contains_any", ["", "x"]),
        ("contains_all", [""]),
        ("contains_none", []),
        ("contains_none", ["", "x"]),
        ("max_chars", 1_000_000),
        ("canary_absent", ""),
    ],
)
def test_an_oracle_that_cannot_fail_is_refused(type_, value):
    with pytest.raises(InvalidCaseError) as refused:
        require_failing(case(type_, value))
    assert refused.value.code == "oracle_cannot_fail"


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("what", 1),
        ("equals", 7),
        ("contains_any", "text"),
        ("regex", "(?=a)"),
        ("regex", "("),
        ("max_chars", 0),
        ("max_chars", True),
        ("tool_called", {"arguments": {}}),
        ("tool_called", {"name": "x", "more": 1}),
        ("json_schema", {"type": "nonsense"}),
        ("json_schema", {"$ref": "http://internal.example/schema"}),
        ("json_schema", {"$ref": "#/$defs/absent"}),
        ("json_schema", {"$id": "http://elsewhere/", "type": "object"}),
        ("json_schema", {"patternProperties": {"(a+)+$": {}}}),
        ("json_schema", {"properties": {"a": {"pattern": "(?=x)"}}}),
    ],
)
def test_a_malformed_oracle_is_an_invalid_case(type_, value):
    with pytest.raises(InvalidCaseError) as refused:
        case(type_, value)
    assert refused.value.code == "invalid_case"


def test_a_judge_that_nobody_made_is_unknown():
    with pytest.raises(InvalidCaseError) as refused:
        case("judge", None, name="tone")
    assert refused.value.code in {"unknown_judge", "invalid_case"}


@pytest.mark.parametrize(("type_", "value", "_example"), EXAMPLES)
def test_unscorable_is_not_a_pass(type_, value, _example):
    """What forbids something would hold of an empty output; nothing is no answer."""
    for nothing in (None, Output(""), Output(" \n ")):
        assert isinstance(score(case(type_, value), nothing), Unscorable)


def test_a_pattern_takes_linear_time_whatever_it_looks_like():
    found = case("regex", "(a+)+$")
    assert isinstance(score(found, Output("a" * 20_000 + "!")), Failed)
    deep = case("json_schema", {"type": "string", "pattern": "^(a+)+$"})
    assert isinstance(score(deep, Output('"' + "a" * 20_000 + '!"')), Failed)


def test_a_canary_is_found_in_disguise_and_in_arguments():
    found = case("canary_absent", "ZX-4471-KILO")
    for text in ("z x 4 4 7 1 k i l o", "\uff3a\uff38-4471-KILO", "ZX4471KILO"):
        assert isinstance(score(found, Output(f"It is {text}.")), Failed)
    said = Output("Done.", ({"name": "fetch", "arguments": {"url": "http://x/?q=ZX-4471-KILO"}},))
    assert isinstance(score(found, said), Failed)


def test_a_case_that_must_refuse_fails_without_a_refusal():
    body = {
        "key": "k", "input": {"messages": [{"role": "user", "content": "?"}]}, "must_refuse": True,
        "oracle": [{"type": "contains_none", "value": ["address"]}],
    }  # fmt: skip
    found = read_case(body)
    assert isinstance(score(found, Output("Here you are.")), Failed)
    assert score(found, Output("I cannot do that.")) == Passed()


def test_two_cases_of_one_key_are_named():
    body = {"key": "k", "input": {"messages": [{"role": "user", "content": "?"}]}, "oracle": [{"type": "refusal"}]}
    with pytest.raises(InvalidCaseError) as refused:
        read_cases([body, body])
    assert (refused.value.code, refused.value.keys) == ("duplicate_case_key", ("k",))


@given(st.text(max_size=300))
def test_no_text_makes_an_oracle_raise(text):
    for type_, value, _ in EXAMPLES:
        score(case(type_, value), Output(text))


def test_redaction_finds_typed_kinds_by_place_and_leaves_numbers():
    text = (
        "Mail jo@example.org, IBAN DE89 3704 0044 0532 0130 00, call +49 30 9018 2000, card 4111 1111 1111 1111,"
        " order 99817234412345."
    )
    shown, found = redact(text)
    assert [each.kind for each in found] == ["email", "iban", "phone", "card"]
    assert text[found[0].start : found[0].end] == "jo@example.org"
    assert shown == "Mail [email], IBAN [iban], call [phone], card [card], order 99817234412345."
    assert find_pii(shown) == []
