"""Measures of relevance against an implementation that is not ours, and the readers of collections."""

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import R, nDCG

from interlock.cli.quality.collections import load
from interlock.cli.quality.measures import ndcg, recall

DOCUMENTS = [f"d{number}" for number in range(12)]


@given(
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 5), min_size=1),
    st.lists(st.sampled_from(DOCUMENTS), unique=True, min_size=1),
)
def test_measures_agree_with_ir_measures(grades, ranking):
    judged = {"q": grades}
    run = {"q": {document: float(len(ranking) - place) for place, document in enumerate(ranking)}}
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 100], judged, run)
    assert ndcg(ranking, grades) == pytest.approx(found[nDCG @ 10])
    assert recall(ranking, grades) == pytest.approx(found[R @ 100])


def test_both_forms_of_collections_are_read(tmp_path):
    (tmp_path / "cran.all.1400").write_text(
        ".I 1\n.T\na title\n.A\nsomebody\n.W\nsome text .\nmore\n.I 2\n.T\nb\n.W\nc\n"
    )
    (tmp_path / "cran.qry").write_text(".I 001\n.W\nwhat is\nit\n.I 004\n.W\nwhy\n")
    (tmp_path / "QRelsCorrectedforTRECeval").write_text("1 0 1 3\n2 0 2 1\n")
    found = load(tmp_path, "cranfield")
    assert [(each.id, each.title, each.text) for each in found.papers] == [
        ("1", "a title", "some text .\nmore"), ("2", "b", "c"),
    ]  # fmt: skip
    assert found.queries == {"1": "what is it", "2": "why"}
    assert found.judged == {"1": {"1": 3}, "2": {"2": 1}}
    (tmp_path / "doc-text.trec").write_text("<DOC>\n<DOCNO>7</DOCNO>\nsome\ntext\n</DOC>\n")
    (tmp_path / "query-text.trec").write_text("<top>\n<num>1</num><title>\nWHAT IS IT\n</title>\n</top>\n")
    (tmp_path / "qrels").write_text("1 0 7 1\n")
    trec = load(tmp_path, "trec")
    assert ([(each.id, each.text) for each in trec.papers], trec.queries) == ([("7", "some text")], {"1": "what is it"})
