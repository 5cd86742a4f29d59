"""The composition root: the only package that knows every system. `SECTIONS`, `build_supervisor`, `serve`.

Holds no logic: who needs what is decided here, what they do with it is theirs. Each file stays under 200 lines.
"""

from interlock.wiring.engines import FakeOptions, inspect_engine, prove_engine, run_fake, serve_engine, shelf_by_hand
from interlock.wiring.first_pools import POOL, POOL_NAME
from interlock.wiring.platform import build_supervisor
from interlock.wiring.processes import warm_process
from interlock.wiring.roles import serve
from interlock.wiring.sections import SECTIONS

__all__ = [
    "POOL", "POOL_NAME", "SECTIONS", "FakeOptions", "build_supervisor", "inspect_engine", "prove_engine", "run_fake",
    "serve", "serve_engine", "shelf_by_hand", "warm_process",
]  # fmt: skip
