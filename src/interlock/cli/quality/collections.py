"""Collections with judgements as their files have them: documents, queries, and how good each document is for a query.

Downloads nothing; the reader of a folder names what it does not find.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

_FIELD: Final = re.compile(r"^\.([ITABW])\s*(\S*)\s*$")
_TREC: Final = re.compile(r"<DOC>(.*?)</DOC>", re.DOTALL | re.IGNORECASE)
_NUMBER: Final = re.compile(r"<DOCNO>\s*(\S+?)\s*</DOCNO>", re.IGNORECASE)
_TOPIC: Final = re.compile(r"<num>\s*(\d+)\s*</num>\s*<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_TAG: Final = re.compile(r"</?\w+>")


@dataclass(frozen=True, slots=True)
class Paper:
    """A document of a collection."""

    id: str
    title: str
    text: str


@dataclass(slots=True)
class Collection:
    """`judged` maps query to document to grade."""

    papers: list[Paper]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]] = field(default_factory=dict)


def load(folder: Path, form: str) -> Collection:
    """Return a collection. Raises `click.ClickException` for a file that is not there."""
    return _cranfield(folder) if form == "cranfield" else _trec(folder)


def _cranfield(folder: Path) -> Collection:
    papers = [
        Paper(each["I"], " ".join(each.get("T", "").split()), each.get("W", "").strip())
        for each in _records(_text(folder, "cran.all.1400"))
    ]
    # Judgements number the queries as they follow each other, whatever their own numbers are.
    queries = {
        str(number): " ".join(each["W"].split()) for number, each in enumerate(_records(_text(folder, "cran.qry")), 1)
    }
    collection = Collection(papers, queries)
    for line in _text(folder, "QRelsCorrectedforTRECeval").splitlines():
        _judge(collection, line)
    return collection


def _records(text: str) -> Iterator[dict[str, str]]:
    record: dict[str, str] = {}
    here = ""
    for line in text.splitlines():
        mark = _FIELD.match(line)
        if mark and mark[1] == "I":
            if record:
                yield record
            record, here = {"I": mark[2]}, ""
        elif mark and not mark[2]:
            here = mark[1]
        elif here:
            record[here] = record.get(here, "") + line + "\n"
    if record:
        yield record


def _trec(folder: Path) -> Collection:
    papers = [Paper(number, "", text) for number, text in _marked(_text(folder, "doc-text.trec"))]
    asked = _TOPIC.findall(_text(folder, "query-text.trec"))
    # Topics are written in capitals, which is their form and no part of what they ask.
    collection = Collection(papers, {number: " ".join(text.lower().split()) for number, text in asked})
    for line in _text(folder, "qrels").splitlines():
        _judge(collection, line)
    return collection


def _marked(text: str) -> Iterator[tuple[str, str]]:
    for found in _TREC.finditer(text):
        number = _NUMBER.search(found[1])
        if number:
            yield number[1], " ".join(_TAG.sub(" ", _NUMBER.sub(" ", found[1])).split())


def _judge(collection: Collection, line: str) -> None:
    parts = line.split()
    if len(parts) == 4:
        query, _, document, grade = parts
        collection.judged.setdefault(query, {})[document] = int(grade)


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise click.ClickException(f"{path} is not there")
    return path.read_text(encoding="utf-8", errors="replace")
