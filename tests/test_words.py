"""The list of phrases that do not come back finds them."""

from pathlib import Path

import pytest
import words


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("what does not, and the mend", "how to fix it"),
        ("checksums are recorded anew", "again"),
        ("--workers 0 is not possible", "must be"),
        ("lr 0.0 makes no sense", "must be"),
        ("It prints a line a part.", "one line for each"),
    ],
)
def test_a_phrase_that_comes_back_is_found_with_what_to_write_instead(tmp_path: Path, line: str, instead: str) -> None:
    (tmp_path / "README.md").write_text(f"fine\n{line}\n", encoding="utf-8")
    (report,) = words.found(tmp_path)
    assert report.startswith("README.md:2: ")
    assert instead in report


def test_other_words_are_not(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("recommended: commend, amendment, leave it alone\n", encoding="utf-8")
    assert list(words.found(tmp_path)) == []
