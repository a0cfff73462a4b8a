"""Phrases that do not come back: ``python tests/words.py`` fails where one stands in the project's own text."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PHRASES = {
    r"\b(the )?mend(s|ed)?\b": "how to fix it, fix, fixed",
    r"\banew\b": "again",
    r"\bwrong use\b": "usage error",
    r"\bstands since\b": "already measured on",
    r"\ba line a \w+\b": "one line for each …",
    r"\bno setting\b": "invalid --set",
    r"\b(is|are) not possible\b": "must be …",
    r"\bmakes? no sense\b": "must be … (got …)",
    r"\b(alone|by itself) has\b": "only … has",
    r"\b(everybody|somebody|nobody) (is|has|else)\b": "a thing, not a person",
    r"\bwas a quarter off\b": "differs by more than a quarter",
}
"""What must not be written, as regular expressions, and what to write instead."""
TEXTS = ("*.md", "docs/**/*.md", "examples/**/*", ".github/**/*", "apo_bench/**/*.py", "baselines/**/*.py")
"""Where it must not be written. Tests may quote it, and the changelog's released sections stay as they are."""
LEFT = {"CHANGELOG.md"}


def found(root: Path) -> Iterator[str]:
    """One line for each phrase that came back: file, line, phrase and what to write instead."""
    for path in sorted({path for pattern in TEXTS for path in root.glob(pattern) if path.is_file()}):
        if path.name in LEFT or path.suffix not in {".md", ".py", ".toml", ".yml"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for phrase, instead in PHRASES.items():
                if match := re.search(phrase, line, flags=re.IGNORECASE):
                    yield f"{path.relative_to(root)}:{number}: {match[0]!r}; write: {instead}"


if __name__ == "__main__":
    lines = list(found(ROOT))
    print(*lines, sep="\n")
    sys.exit(bool(lines))
