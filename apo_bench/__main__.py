"""``python -m apo_bench`` is ``apo-bench``."""

import sys

from apo_bench.cli.main import script

if __name__ == "__main__":
    sys.exit(script())
