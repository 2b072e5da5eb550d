"""How many examples property tests try: MISR_SOAK=1 makes it a long run."""

import os


def examples(usual: int) -> int:
    return 10_000 if os.environ.get("MISR_SOAK") else usual
