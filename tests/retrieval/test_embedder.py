"""The local embedder: pinned files, vectors of length 1, and a bounded number of calls that wait."""

import asyncio
import os
import subprocess
import sys

import pytest

from interlock.foundation.errors import BrokenWorldError
from interlock.retrieval.adapters.minilm import LocalEmbedder, find_model
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.embedding import EmbedderUnavailableError, Embedding


@pytest.fixture(scope="module")
def embedder():
    made = LocalEmbedder()
    yield made
    made.close()


async def test_like_meanings_are_near(embedder):
    money, refund, physics = await embedder.embed(
        ["how do I get my money back?", "Refund policy: a customer is paid back.", "Entanglement of two photons"]
    )
    assert money.cosine(refund) > money.cosine(physics) + 0.2
    assert money.cosine(money) == pytest.approx(1.0, abs=1e-5)


async def test_a_vector_depends_on_its_text_alone(embedder):
    """Else what is embedded beside a text could be seen in its vector, and an unseen document in a visible score."""
    (alone,) = await embedder.embed(["the number of seats of a cruise"])
    beside = await embedder.embed(
        [*("some longer text about boats " * n for n in range(1, 20)), "the number of seats of a cruise"]
    )
    assert beside[-1].vector == alone.vector


async def test_the_id_names_the_digest_and_the_dimension(embedder):
    name, digest, dimension = embedder.id.split("/")
    assert (name, dimension) == ("all-minilm-l6-v2-int8", "384")
    assert len(digest) == 16


def test_a_code_holds_the_signs_in_order():
    assert Embedding((0.5, -0.5, 0.0, 1.0, -1.0, -1.0, -1.0, 1.0)).code == bytes([0b10010001])


async def test_calls_beyond_the_limit_are_refused():
    made = LocalEmbedder(RetrievalConfig(embed_waiting_max=1))
    try:
        first = asyncio.ensure_future(made.embed(["one"]))
        await asyncio.sleep(0)
        with pytest.raises(EmbedderUnavailableError):
            await made.embed(["two"])
        assert len(await first) == 1
        assert made.statistics().refused == 1
        assert len(await made.embed(["three"])) == 1
    finally:
        made.close()


async def test_another_file_under_the_name_of_the_model_is_refused(tmp_path):
    other = tmp_path / "model.onnx"
    other.write_bytes(b"not the model")
    made = LocalEmbedder(RetrievalConfig(embedder_model_path=str(other)))
    with pytest.raises(EmbedderUnavailableError, match="SHA-256"):
        await made.embed(["one"])
    made.close()


def test_a_missing_file_is_named_with_its_remedy(tmp_path):
    with pytest.raises(BrokenWorldError, match="embedder_model_missing"):
        find_model(str(tmp_path / "nothing.onnx"))
    assert find_model("").name == "model.onnx"


def test_the_runtime_keeps_no_diary_of_its_use(tmp_path):
    program = (
        "import asyncio; from interlock.retrieval.adapters.minilm import LocalEmbedder; "
        "asyncio.run(LocalEmbedder().embed(['one']))"
    )
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], env=os.environ | homes, check=True, timeout=280)
    assert [str(file) for file in tmp_path.rglob("*") if file.is_file()] == []
