"""The credentials that can be told by how they begin: 25 kinds, each with its prefixes and its form.

Pure. A kind without a telling prefix is not here: it would need a guess.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM_CHARS: Final = 6

OWN_KEY_REGEX: Final = r"il_(?:live|test|task)_[0-9A-Za-z]{46}"


def is_own_key(text: str) -> bool:
    """Tell whether the last 6 characters are the zero-padded base62 CRC-32 of all before them."""
    body, checksum = text[:-_CHECKSUM_CHARS], text[-_CHECKSUM_CHARS:]
    number = crc32(body.encode("ascii", "replace"))
    digits = ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits == checksum


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind. `form` is matched where a prefix stands; its group 1, where there is one, is what is hidden.

    `run` matches as far as text may still belong to it, so that a stream knows when to wait.
    """

    kind: str
    prefixes: tuple[str, ...]
    form: re.Pattern[str]
    run: re.Pattern[str]
    check: Callable[[str], bool] | None = None


_RUN: Final = re.compile(r"[\w.+/=%:~-]*")
_PEM_RUN: Final = re.compile(r"(?:(?!-----END [A-Z0-9 ]{0,40}-----)[\s\S])*")


def _pattern(
    kind: str,
    prefixes: str,
    form: str,
    run: re.Pattern[str] = _RUN,
    check: Callable[[str], bool] | None = None,
) -> Pattern:
    return Pattern(kind, tuple(prefixes.split("|")), re.compile(form), run, check)


PATTERNS: Final = (
    _pattern("interlock_key", "il_live_|il_test_|il_task_", OWN_KEY_REGEX, check=is_own_key),
    _pattern(
        "private_key",
        "-----BEGIN ",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",
        _PEM_RUN,
    ),
    _pattern("jwt", "eyJ", r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){1,3}"),
    _pattern("aws_access_key", "AKIA|ASIA|ABIA|ACCA", r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}"),
    _pattern("aws_bedrock_key", "ABSK", r"ABSK[0-9A-Za-z+/=]{100,}"),
    _pattern("google_api_key", "AIza", r"AIza[\w-]{35}"),
    _pattern("google_oauth_token", "ya29.", r"ya29\.[\w-]{20,}"),
    _pattern("google_client_secret", "GOCSPX-", r"GOCSPX-[\w-]{28}"),
    _pattern("azure_storage_key", "AccountKey=", r"AccountKey=([0-9A-Za-z+/]{86}==)"),
    _pattern("azure_sas_signature", "sig=", r"sig=((?:[0-9A-Za-z+/]|%2[BbFf]){43}(?:=|%3[Dd]))"),
    _pattern("github_token", "ghp_|gho_|ghu_|ghs_|ghr_", r"gh[pousr]_[0-9A-Za-z]{36,}"),
    _pattern("github_fine_grained_token", "github_pat_", r"github_pat_\w{22,}"),
    _pattern("gitlab_token", "glpat-|glrt-|gldt-|glptt-", r"gl(?:pat|rt|dt|ptt)-[\w.-]{20,}"),
    _pattern("slack_token", "xoxa-|xoxb-|xoxp-|xoxr-|xoxs-|xapp-", r"(?:xox[abprs]|xapp)-[0-9A-Za-z-]{10,}"),
    _pattern("slack_webhook", "hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows)/([\w/+-]{20,})"),
    _pattern("discord_webhook", "/api/webhooks/", r"/api/webhooks/\d{15,20}/([\w-]{60,})"),
    _pattern("telegram_bot_token", ":AA", r":(AA[\w-]{33})"),
    _pattern("anthropic_key", "sk-ant-", r"sk-ant-[\w-]{20,}"),
    _pattern("openai_key", "sk-", r"sk-(?!ant-)(?:[a-z]+-)?[\w-]{20,}"),
    _pattern(
        "stripe_key", "sk_live_|sk_test_|rk_live_|rk_test_|whsec_", r"(?:[sr]k_(?:live|test)|whsec)_[0-9A-Za-z]{16,}"
    ),
    _pattern("huggingface_token", "hf_", r"hf_[0-9A-Za-z]{30,}"),
    _pattern("package_registry_token", "npm_|pypi-AgEI", r"npm_[0-9A-Za-z]{36}|pypi-AgEI[\w-]{50,}"),
    _pattern("sendgrid_key", "SG.", r"SG\.[\w-]{22}\.[\w-]{43}"),
    _pattern("vault_token", "hvs.|hvb.", r"hv[sb]\.[\w-]{24,}"),
    _pattern("url_password", "://", r"://[^\s/:@\"'<>]*:([^\s/@\"'<>]+)@", re.compile(r"(?:://)?[^\s/@\"'<>]*")),
)
