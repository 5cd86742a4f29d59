"""How long one step of an engine takes: measured points between which time is linear, and what context adds.

Predicts nothing online; `steptime.py` chooses a step by a profile, the simulator lets it take the time it says.
"""

import csv
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# Chunks of a prompt grow in these steps, up to this size.
CHUNK_STEP: Final = 32
CHUNK_MAX: Final = 2_048
_VIDUR_LAYERS: Final = 32
# Columns of one layer in Vidur's profile of the linear operators; `emb` is the embedding, once a step and small.
_VIDUR_SKIPPED: Final = "time_stats.emb.median"


class ProfileInvalidError(ValueError):
    """The file is not a profile; the message says where."""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Microseconds of a step over its tokens (prompt tokens and one a decoding sequence), at least two points.

    `overhead_us` comes on top of each step, `context_ns` for each resident token of context, `attention_ps` for each
    pair of a prompt token and a token of context before it. What prompt tokens add to a step takes `reading` times as
    long as the points say.
    """

    name: str
    points: tuple[tuple[int, int], ...]
    overhead_us: int
    context_ns: int
    attention_ps: int
    reading: float = 1.0
    _sizes: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.points) < 2 or any(a[0] >= b[0] for a, b in zip(self.points, self.points[1:], strict=False)):
            raise ProfileInvalidError(f"{self.name}: two or more points with rising token counts are needed")
        object.__setattr__(self, "_sizes", tuple(size for size, _ in self.points))

    def step_us(self, prefill: int, decoding: int = 0, context_tokens: int = 0, pairs: int = 0) -> int:
        """Return the microseconds of a step with so many prompt tokens beside so many decoding sequences."""
        attention_us = pairs * self.attention_ps // 10**6
        others_us = self.overhead_us + context_tokens * self.context_ns // 1_000
        if self.reading == 1.0:
            return self._linear_us(prefill + decoding) + others_us + attention_us
        # A step that reads is a step that writes one token, and what its prompt tokens add.
        written_us = self._linear_us(max(decoding, 1))
        added_us = self._linear_us(max(prefill + decoding, 1)) - written_us + attention_us
        return written_us + others_us + round(added_us * self.reading)

    def at(self, factor: float, reading: float | None = None) -> "StepProfile":
        """Return the profile of an engine that does everything `factor` times as fast, or reads at another factor."""
        points = tuple((tokens, max(1, round(us / factor))) for tokens, us in self.points)
        overhead_us, context_ns, attention_ps = (
            round(each / factor) for each in (self.overhead_us, self.context_ns, self.attention_ps)
        )
        as_fast = reading is None or reading == factor
        name = f"{self.name}@{factor:g}" if as_fast else f"{self.name}@{factor:g}/{reading:g}"
        slower = 1.0 if reading is None else factor / reading
        return StepProfile(name, points, overhead_us, context_ns, attention_ps, slower)

    def _linear_us(self, tokens: int) -> int:
        """Return what the points say; beyond the last one the last slope goes on."""
        at = min(max(bisect_left(self._sizes, tokens), 1), len(self.points) - 1)
        (low, low_us), (high, high_us) = self.points[at - 1], self.points[at]
        return low_us + (max(tokens, low) - low) * (high_us - low_us) // (high - low)

    @property
    def prefill_tps(self) -> int:
        """Prompt tokens a second in steps of 2,048 tokens, or of the largest measured size below."""
        size = max((each for each in self._sizes if each <= 2_048), default=self._sizes[0])
        return size * 1_000_000 // self.step_us(size)


A100_LLAMA3_8B: Final = StepProfile(
    "a100-llama3-8b",
    (
        (1, 9_700), (8, 9_980), (16, 10_130), (32, 10_910), (64, 11_230), (128, 13_180), (256, 19_490),
        (512, 34_640), (1_024, 75_140), (2_048, 145_600), (4_096, 273_600), (8_192, 545_200),
    ),
    overhead_us=2_000,
    context_ns=87,
    attention_ps=2_600,
)  # fmt: skip
# Prefill of the 135M model on one core runs at about 510 tokens/s; decoding reads the points up to 32 sequences.
EMBEDDED_CPU: Final = StepProfile(
    "embedded-cpu",
    ((1, 8_400), (8, 11_500), (16, 17_200), (32, 27_900), (64, 125_490), (128, 250_980), (2_048, 4_015_680)),
    overhead_us=0,
    context_ns=0,
    attention_ps=0,
)
BUILT_IN: Final = {each.name: each for each in (A100_LLAMA3_8B, EMBEDDED_CPU)}


def read_vidur(name: str, lines: Iterable[str]) -> StepProfile:
    """Return the profile of a Vidur `mlp.csv`: medians of one layer, summed, times the layers of the model.

    Rows for one device count; of rows with the same token count the last. Raises `ProfileInvalidError`.
    """
    reader = csv.DictReader(lines)
    medians = [each for each in reader.fieldnames or () if each.endswith(".median") and each != _VIDUR_SKIPPED]
    if not medians or "num_tokens" not in (reader.fieldnames or ()):
        raise ProfileInvalidError(f"{name}: no columns of medians and `num_tokens`")
    found: dict[int, int] = {}
    for row in reader:
        try:
            if int(row["num_tensor_parallel_workers"]) != 1:
                continue
            layer_ms = sum(float(row[each] or 0) for each in medians)
            found[int(row["num_tokens"])] = round(layer_ms * 1_000 * _VIDUR_LAYERS)
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileInvalidError(f"{name} line {reader.line_num}: {error}") from error
    like = A100_LLAMA3_8B
    return StepProfile(name, _rising(found), like.overhead_us, like.context_ns, like.attention_ps)


def _rising(found: dict[int, int]) -> tuple[tuple[int, int], ...]:
    points: list[tuple[int, int]] = []
    for size in sorted(found):
        # A larger step is never faster; what the measurement says otherwise is its noise.
        points.append((size, max(found[size], points[-1][1] if points else 0)))
    return tuple(points)


def chunk_of(profile: StepProfile, limit_us: int, decoding: int, context_tokens: int, depth: int) -> int:
    """Return the chunk of a prompt at `depth` that is read fastest of those whose step fits `limit_us`.

    It is seldom the largest: kernels work in tiles, so a few tokens more may cost a step of what 64 more would. Whole
    steps, decoding sequences included, are multiples of `CHUNK_STEP`, as tiles are; where nothing fits the least chunk.
    """
    best, best_us = CHUNK_STEP, 0
    for total in range((decoding // CHUNK_STEP + 1) * CHUNK_STEP, decoding + CHUNK_MAX + 1, CHUNK_STEP):
        size = total - decoding
        if size < CHUNK_STEP:
            continue
        step_us = profile.step_us(size, decoding, context_tokens, size * (depth + size // 2))
        if step_us > limit_us:
            break
        if not best_us or size * best_us >= best * step_us:
            best, best_us = size, step_us
    return best
