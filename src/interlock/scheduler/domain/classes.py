"""The classes of service and what each promises on the kinds of pool that exist.

Does not decide who may use a class: the edge lowers it to the key's `class_max`.
"""

from typing import Final

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.types import ClassObjective

# An accelerator's first token comes within a second; these are the classes of scheduler.md, section 6.3.
ACCELERATOR_OBJECTIVES: Final = {
    ServiceClass.INTERACTIVE: ClassObjective(ttft_ms=1_000, tpot_ms=50),
    ServiceClass.STANDARD: ClassObjective(ttft_ms=5_000, tpot_ms=100),
    ServiceClass.BATCH: ClassObjective(ttft_ms=60_000, tpot_ms=None),
}
# One core prefills 228-510 tokens a second, so a prompt of 1,200 tokens has to be slow rather than refused.
EMBEDDED_OBJECTIVES: Final = {
    ServiceClass.INTERACTIVE: ClassObjective(ttft_ms=8_000, tpot_ms=250),
    ServiceClass.STANDARD: ClassObjective(ttft_ms=20_000, tpot_ms=500),
    ServiceClass.BATCH: ClassObjective(ttft_ms=60_000, tpot_ms=None),
}
