"""Turns a GGUF file into an int8 OpenVINO IR; run as a program by the Python of a throwaway environment.

Never imported by the product: what it imports is installed for a build and deleted after it.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

# Pre-tokenizers of byte-level BPE that this file knows, by the name in the GGUF: whether digits stand alone.
_PRE: Final = {"smollm": True, "gpt-2": False, "default": False}
_CONTROL, _USER_DEFINED = 3, 4


def main(model: Path, out: Path) -> None:
    """Write IR, tokenizer and detokenizer of `model` into the empty folder `out`."""
    source = out / "source"
    fields = read_fields(model)
    save_weights(model, source)
    save_tokenizer(fields, source)
    export(source, out)
    shutil.rmtree(source)


def read_fields(model: Path) -> dict[str, Any]:
    """Return the metadata of the file by name."""
    from gguf import GGUFReader  # noqa: PLC0415 - the parts are imported one by one, so that memory holds one of them

    return {name: field.contents() for name, field in GGUFReader(model).fields.items()}


def save_weights(model: Path, source: Path) -> None:
    """Dequantise the tensors and save them as a Hugging Face model."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    loaded = AutoModelForCausalLM.from_pretrained(str(model.parent), gguf_file=model.name, dtype=torch.float32)
    loaded.save_pretrained(source)


def save_tokenizer(fields: dict[str, Any], source: Path) -> None:
    """Rebuild the tokenizer from the file itself: a loader that guesses it by the architecture guesses wrong."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    kind, pre = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in _PRE:
        sys.exit(f"tokenizer {kind}/{pre} is not supported; supported are gpt2 with {', '.join(_PRE)}")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(each.split(" ", 1)) for each in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={each: at for at, each in enumerate(tokens)}, merges=merges))
    bytes_first = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_first]) if _PRE[pre] else bytes_first
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(each, special=True, normalized=False)
               for each, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]  # fmt: skip
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([each for each, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED])
    named = {
        f"{role}_token": tokens[fields[f"tokenizer.ggml.{role}_token_id"]]
        for role in ("bos", "eos")
        if f"tokenizer.ggml.{role}_token_id" in fields
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.chat_template = fields.get("tokenizer.chat_template")
    fast.save_pretrained(source)


def export(source: Path, out: Path) -> None:
    """Export with a KV cache, compress the weights to int8, convert the tokenizer."""
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415
    from openvino_tokenizers import convert_tokenizer  # noqa: PLC0415
    from optimum.exporters.openvino import main_export  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    plain = out / "plain"
    main_export(str(source), plain, task="text-generation-with-past", library_name="transformers")
    model = openvino.Core().read_model(plain / "openvino_model.xml")
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(compressed, out / "openvino_model.xml")
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
    openvino.save_model(encoder, out / "openvino_tokenizer.xml")
    openvino.save_model(decoder, out / "openvino_detokenizer.xml")
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ):
        if (plain / name).exists():
            shutil.copy(plain / name, out / name)
    shutil.rmtree(plain)
    versions = {each.__name__: each.__version__ for each in (openvino, nncf)}
    (out / "build.json").write_text(json.dumps(versions), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
