"""The official client of another language: it changes its base URL and its key, and nothing else.

The package comes from the registry that npm is set up for, into a folder outside of the repository's files.
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.support.platform import ROOT
from tests.support.provision import why_absent

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
CLIENT = "openai@6.9.0"
INSTALL_S = 90
SCRIPT = """
import OpenAI from 'openai';
const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY, maxRetries: 0 });
const messages = [{ role: 'user', content: 'In one short sentence: what is a warehouse?' }];
const { data: stream, response } = await client.chat.completions.create(
  { model: 'default', messages, max_tokens: 24, stream: true, stream_options: { include_usage: true } },
).withResponse();
let text = '', usage = null, chunks = 0;
for await (const chunk of stream) {
  chunks += 1;
  text += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
let refused = null;
try {
  await client.chat.completions.create({ model: 'nothing-like-it', messages });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, code: error.code, id: error.requestID };
}
console.log(JSON.stringify({ text, usage, chunks, id: response.headers.get('x-request-id'), refused }));
"""


@pytest.fixture(scope="module")
def node_folder():
    """A folder with the client in it, kept beside the virtual environment for the next run."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(why_absent(program))
    folder = ROOT / ".venv" / "node"
    wanted = folder / "node_modules" / "openai" / "package.json"
    if not wanted.is_file() or json.loads(wanted.read_text())["version"] != CLIENT.partition("@")[2]:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", CLIENT]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install {CLIENT} in {INSTALL_S} s")
        if done.returncode:
            pytest.skip(f"npm cannot install {CLIENT} here: {done.stderr.strip()[-200:]}")
    return folder


def test_the_node_client_streams_an_answer_whose_id_opens_its_story(embedded, node_folder):
    key = embedded.key("node")
    script = node_folder / "journey.mjs"
    script.write_text(SCRIPT)
    env = os.environ | {"BASE_URL": f"{embedded.url}/v1", "KEY": key["key"]}
    done = subprocess.run(
        ["node", script.name], cwd=node_folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["chunks"] > 3
    assert len(told["text"].split()) > 2
    story = embedded.story(told["id"], embedded.as_key(key["key"]))
    assert (story["outcome"], story["key_id"]) == ("ok_stream", key["id"])
    assert story["usage"]["output_tokens"] == told["usage"]["completion_tokens"]
    refused = told["refused"]
    assert (refused["kind"], refused["status"], refused["code"]) == ("NotFoundError", 404, "model_not_found")
    assert embedded.story(refused["id"])["rule"] == "model.alias"
