"""The verifier that imports none of our code agrees with ours, on good chains and on bad ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "verify_audit.py"


async def exported(chain, path):
    pieces = [piece async for piece in chain.reader.export(chain.scope.organization_id)]
    path.write_bytes(b"".join(pieces))
    return path


def run(*files):
    return subprocess.run([sys.executable, "-I", SCRIPT, *files], capture_output=True, text=True, check=False)


async def test_an_untouched_export_is_ok(chain, tmp_path):
    await chain.append(5, reason="ünïcode", detail={"n": 1})
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    file = await exported(chain, tmp_path / "chain.jsonl")
    ended = run(file, chain.path)
    assert (ended.returncode, ended.stdout) == (0, "ok: 5 events\n")


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        (lambda lines: lines[2]["event"].update(reason="forged"), "seq 3: hash_mismatch"),
        (lambda lines: lines[2].update(hash="00" * 32), "seq 3: hash_mismatch"),
        (lambda lines: lines.pop(2), "seq 3: gap"),
        (lambda lines: lines.insert(2, lines[1]), "seq 3: gap"),
        (lambda lines: lines.pop(4), "seq 5: tail_truncated"),
        (lambda lines: lines[5]["checkpoint"].update(hash="00" * 32), "seq 5: checkpoint_mismatch"),
    ],
)
async def test_an_edited_export_is_not(chain, tmp_path, edit, finding):
    await chain.append(5)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    file = await exported(chain, tmp_path / "chain.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    edit(lines)
    file.write_text("\n".join(map(json.dumps, lines)))
    ended = run(file)
    assert ended.returncode == 1
    assert finding in ended.stderr


def test_it_is_short_and_imports_the_standard_library_only():
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 60
    assert "interlock." not in text.replace("interlock.jsonl", "").split("import", 1)[1]
