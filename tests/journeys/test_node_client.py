"""The official clients of another language: they change their base URL and their key, and nothing else.

The packages come from the registry that npm is set up for, into a folder outside of the repository's files.
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.support.platform import ROOT
from tests.support.provision import why_absent

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
CLIENTS = {"openai": "6.9.0", "@anthropic-ai/sdk": "1.14.0", "ai": "6.0.326", "@ai-sdk/openai-compatible": "2.0.92"}
INSTALL_S = 90
SCRIPT = """
import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';
import { streamText } from 'ai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY, maxRetries: 0 });
const messages = [{ role: 'user', content: 'In one short sentence: what is a warehouse?' }];
const { data: stream, response } = await client.chat.completions.create(
  { model: 'default', messages, max_tokens: 24, temperature: 0, stream: true, stream_options: { include_usage: true } },
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
const claude = new Anthropic({ baseURL: process.env.ROOT_URL, apiKey: process.env.KEY, maxRetries: 0 });
const live = claude.messages.stream({ model: 'default', max_tokens: 24, temperature: 0, messages });
let deltas = 0;
live.on('text', () => { deltas += 1; });
const message = await live.finalMessage();
const ours = createOpenAICompatible({ name: 'ours', baseURL: process.env.BASE_URL, apiKey: process.env.KEY });
const told = streamText({ model: ours('default'), messages, maxOutputTokens: 24, temperature: 0 });
let kit = '';
for await (const piece of told.textStream) kit += piece;
console.log(JSON.stringify({
  text, usage, chunks, id: response.headers.get('x-request-id'), refused,
  message, deltas, kit, finish: await told.finishReason,
}));
"""


@pytest.fixture(scope="module")
def node_folder():
    """A folder with the clients in it, kept beside the virtual environment for the next run."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(why_absent(program))
    folder = ROOT / ".venv" / "node"
    if not all(_installed(folder, name) == version for name, version in CLIENTS.items()):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}@{version}" for name, version in CLIENTS.items()]
        command = ["npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", *wanted]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install {wanted} in {INSTALL_S} s")
        if done.returncode:
            pytest.skip(f"npm cannot install {wanted} here: {done.stderr.strip()[-200:]}")
    return folder


def _installed(folder, name):
    found = folder / "node_modules" / name / "package.json"
    return json.loads(found.read_text())["version"] if found.is_file() else None


def test_node_clients_of_three_makers_stream_from_the_same_alias(embedded, node_folder):
    key = embedded.key("node")
    script = node_folder / "journey.mjs"
    script.write_text(SCRIPT)
    env = os.environ | {"ROOT_URL": embedded.url, "BASE_URL": f"{embedded.url}/v1", "KEY": key["key"]}
    done = subprocess.run(
        ["node", script.name], cwd=node_folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["chunks"] > 3
    assert len(told["text"].split()) > 2
    story = embedded.story(told["id"], embedded.as_key(key["key"]))
    assert (story["outcome"], story["key_id"]) == ("ok_stream", key["id"])
    assert story["usage"]["output_tokens"] == told["usage"]["completion_tokens"]
    message = told["message"]
    assert (message["type"], message["role"], told["deltas"] > 2) == ("message", "assistant", True)
    assert message["stop_reason"] in {"end_turn", "max_tokens"}
    assert len(message["content"][0]["text"].split()) > 2
    assert message["usage"]["output_tokens"] > 2
    assert len(told["kit"].split()) > 2
    assert told["finish"] in {"stop", "length"}
    refused = told["refused"]
    assert (refused["kind"], refused["status"], refused["code"]) == ("NotFoundError", 404, "model_not_found")
    assert embedded.story(refused["id"])["rule"] == "model.alias"
