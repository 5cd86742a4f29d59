"""Which hot paths run compiled: what is built is what is looked for, and whoever does without is told."""

import tomllib
from pathlib import Path

from interlock.foundation import native
from interlock.foundation.supervisor.doctor import Verdict, check_kernels

ROOT = Path(__file__).parents[2]


def test_every_kernel_that_is_built_is_looked_for_and_may_be_missing():
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    assert [each["name"] for each in built] == list(native.KERNELS)
    assert all(each["optional"] for each in built)
    assert all((ROOT / source).is_file() for each in built for source in each["sources"])


def test_without_kernels_the_doctor_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setenv(native.PURE, "1")
    assert native.load(native.KERNELS[0]) is None
    found = check_kernels()
    assert (found.verdict, found.remedy) == (Verdict.WARN, "unset INTERLOCK_PURE")
    monkeypatch.delenv(native.PURE)
    monkeypatch.setattr(native, "KERNELS", ("interlock.foundation._native_nothing",))
    assert native.load("interlock.foundation._native_nothing") is None
    assert check_kernels().verdict is Verdict.WARN
    assert "C compiler" in check_kernels().remedy
