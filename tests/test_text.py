"""What stands for a text in each medium: harmless there, and still the text."""

import html
import re

import pytest
from markdown_it import MarkdownIt
from support.hostile_records import TEXTS

from apo_bench.text import escaped, file_name, in_csv, in_html, in_json, in_latex, laid_out, printable

PUNCTUATION = [chr(code) + "a" + chr(code) for code in range(0x20, 0x7F)]
ONES = sorted({*TEXTS, *PUNCTUATION, "1) a", "a#b", "#", "+", "12345678901. a", "~~~"})
HEAD = "<table>\n<thead>\n<tr>\n<th>a</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n"
PLACES = {
    "paragraph": ("{}", "<p>{}</p>"),
    "heading": ("## {}", "<h2>{}</h2>"),
    "item": ("- {}", "<ul>\n<li>{}</li>\n</ul>"),
    "cell": ("| a |\n| - |\n| {} |", f"{HEAD}<td>{{}}</td>\n</tr>\n</tbody>\n</table>"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_markdown_reader_shows_the_text_and_nothing_else(place: str) -> None:
    source, expected = PLACES[place]
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for text in ONES:
        shown = printable(" ".join(text.split()))
        if shown:
            rendered = reader.render(source.format(escaped(text))).strip()
            assert html.unescape(rendered) == html.unescape(expected).format(shown), text
            assert re.findall(r"<[^>]*>", rendered) == re.findall(r"<[^>]*>", expected)


def test_no_sign_of_a_link_a_tag_or_a_formula_is_left_for_readers_that_know_fewer_escapes() -> None:
    for text in ONES:
        assert not re.search(
            r"<|>|://|\bwww\.|@|\$|\bmailto:|&(?!amp;|lt;|gt;|#\d+;)|(?<!\\)[\[\]{}|`*_~]", escaped(text)
        )


def test_usual_names_stay_as_they_are() -> None:
    for name in (
        "cifar10.lenet",
        "apo-lr-sgdm (lr=0.1)",
        "accuracy (%)",
        "1.5",
        "-1",
        "η ± 2",
        "torch 2.9+cpu",
        "a: b",
    ):
        assert escaped(name) == name


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_each_medium(text: str) -> None:
    assert printable(text).isprintable()
    assert html.unescape(in_html(text)) == laid_out(text)
    assert not re.search("[<>\"']", in_html(text))
    assert not re.search(r"(?<!\\)[&%$#_{}]", re.sub(r"\\text\w+\{\}", "", in_latex(text)))
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", file_name(text))
    assert not in_csv(text).lstrip(" \n").startswith(("=", "+", "-", "@"))


def test_marks_do_not_pile_up_and_do_not_take_hold_of_what_is_before_them() -> None:
    assert printable("e" + "\u0301" * 5) == "e" + "\u0301" * 3 + "\\u0301" * 2
    assert printable("\u0338x") == "\\u0338x"
    assert laid_out("a\ne\u0301") == "a\ne\u0301"


def test_json_means_the_same() -> None:
    import json

    value = "".join(TEXTS)
    encoded = in_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(encoded) == value
    assert encoded.isprintable()


def test_names_of_files_stay_two() -> None:
    assert len({file_name(text) for text in TEXTS}) == len(TEXTS)
    assert file_name("A") != file_name("a")
