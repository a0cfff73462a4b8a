"""What a plugin says of itself, and its last words, are text wherever they are shown."""

import pytest
from support.commands import PLUG, TINY, records_in, store_of
from support.shell import TINY_TASK, Shell, optimizer_plugin

SAID = "\x1b]0;t\x07\x1b[2J\u202ea|b <script>\nfake: 1 of 1 runs"


def _is_safe(*texts: str) -> bool:
    return all(character == "\n" or character.isprintable() for text in texts for character in text)


@pytest.mark.slow
def test_the_words_of_an_optimizer_that_fails_are_shown_as_text(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin([f"print({SAID!r})", f"raise RuntimeError({SAID!r})"]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug", "--precisions", "fp32", status=1)
    assert _is_safe(done.stdout, done.stderr)
    assert "\\x1b]0;t\\x07\\x1b[2J\\u202ea|b <script>" in done.stdout + done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("fake:")]
    (record,) = records_in(tiny_shell)
    assert "\x1b" in record["outcome"]["message"]  # a record holds it as it was said
    (page,) = (store_of(tiny_shell) / "leaderboards").iterdir()
    text = page.read_text(encoding="utf-8")
    assert _is_safe(text)
    assert "a\\|b &lt;script&gt;" in text
    for command in (("status",), ("report", "--suite", "classification"), ("export",)):
        shown = tiny_shell(*command)
        assert _is_safe(shown.stdout, shown.stderr)


def test_what_a_task_says_of_itself_is_shown_as_text(shell: Shell) -> None:
    about = "A \x1b[31mred\u202e task."
    shell.install("tiny_task", f"{TINY_TASK}\ntiny.__doc__ = {about!r}\n", "[apo_bench.tasks]\ntiny = tiny_task:tiny\n")
    for command in (("list", "tiny"), ("list", "tiny", "--json")):
        shown = shell(*command)
        assert _is_safe(shown.stdout, shown.stderr)
        assert "31mred" in shown.stdout
