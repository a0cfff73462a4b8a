"""The acceptance of a card by its former name; its parts and options are those of `tests/acceptance/gpu.py`.

python benchmarks/gpu_acceptance.py [--output DIR] [--seconds 540] [--parts run,records] [--cpu]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "acceptance"))

from gpu import main

if __name__ == "__main__":
    sys.exit(main())
