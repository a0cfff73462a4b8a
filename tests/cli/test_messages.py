"""Every error that the command line can print, listed in ``messages.txt``: each says what is wrong and how to fix it.

``python tests/cli/test_messages.py`` writes the list again; its difference shows a reviewer which words changed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("messages.txt")
FIX = re.compile(
    r"\b(add|call|choose|declare|delete|drop|encode|expected|fetch|fix|give|leave|look for|make|must|name|needs|pass|pip install|"
    r"push|put|reinstall|remove|register|rename|return|run|save|set|split|store|try|uninstall|unfreeze|use|wait|wrap|write)\b"
    r"|\{did_you_mean\(|\{_(label|token)_hint\(|\{_?how_to_fix|\{_again\(|; see |what was printed is in "
)
"""What a message that helps has in it: an imperative, what is expected, the nearest name, or the file to look into."""


_PASSED_ON = {"RuleFailedError"}
"""Errors whose words are another's: the plugin's own."""


def _users_errors() -> set[str]:
    """Names of the exceptions that the command line prints as one line: all that descend from `ApoBenchError`."""
    names = {"ApoBenchError"}
    while True:
        found = {
            node.name
            for tree in _trees().values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).rpartition(".")[2] in names for base in node.bases)
        }
        if found <= names:
            return names
        names |= found


def _trees() -> dict[Path, ast.Module]:
    paths = sorted([*(ROOT / "apo_bench").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")])
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def _template(node: ast.expr) -> str:
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(_template, node.values))
        case ast.FormattedValue():
            return f"{{{ast.unparse(node.value)}}}"
        case ast.BinOp(op=ast.Add()):
            return _template(node.left) + _template(node.right)
    return f"{{{ast.unparse(node)}}}"


def _messages() -> Iterator[tuple[str, str]]:
    """Where each error is raised, and its words."""
    names = _users_errors()
    for path, tree in _trees().items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            if ast.unparse(node.func).rpartition(".")[2] in names - _PASSED_ON:
                yield str(path.relative_to(ROOT)), _template(node.args[0])


def _listed() -> str:
    lines: dict[str, list[str]] = {}
    for place, message in _messages():
        lines.setdefault(place, []).append(message)
    return "\n".join("\n  ".join([place, *messages]) for place, messages in lines.items()) + "\n"


def test_all_messages_are_listed() -> None:
    assert LIST.read_text(encoding="utf-8") == _listed(), "write the list again: python tests/cli/test_messages.py"


@pytest.mark.parametrize(("place", "message"), list(_messages()))
def test_a_message_says_how_to_fix_it(place: str, message: str) -> None:
    assert FIX.search(re.sub(r"cannot \w+", "", message)), f"{place}: {message!r} does not say how to fix it"
    assert "\n" not in message
    assert not message.endswith(".")


if __name__ == "__main__":
    LIST.write_text(_listed(), encoding="utf-8")
