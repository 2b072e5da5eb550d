"""How many examples property tests try: MISR_SOAK=1 makes it a long run."""

import os

SOAK = bool(os.environ.get("MISR_SOAK"))


def examples(usual: int) -> int:
    return 10_000 if SOAK else usual
