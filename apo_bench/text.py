"""Numbers and texts as people read them: counts, durations, sizes, and what stands for a text in each medium.

A name, a message or a version in a record was written by a plugin, or by a stranger. Whatever is made of one goes
through the function of its medium: `printable` and `laid_out` (terminals), `escaped` (Markdown), `in_html`, `in_latex`,
`in_csv`, `in_json`, `file_name`. Printing itself is `apo_bench.say`'s.
"""

import functools
import hashlib
import html
import json
import re
import unicodedata

MISSING = "–"
"""Stands in a table where there is no number."""


def quantity(value: float | None) -> str:
    """A count with three digits and a decimal prefix.

    >>> quantity(1234), quantity(5.6e17), quantity(12), quantity(None)
    ('1.23 k', '560 P', '12', '?')
    """
    if value is None:
        return "?"
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5:  # noqa: PLR2004 - 3 digits before the next prefix
            return f"{value:.3g} {prefix}".rstrip()
        value /= 1000
    return f"{value:.3g} Z"


def epochs(count: float) -> str:
    """A budget.

    >>> epochs(1), epochs(0.5), epochs(200)
    ('1 epoch', '0.5 epochs', '200 epochs')
    """
    return f"{count:g} epoch{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Round a time for people.

    >>> duration(48), duration(200), duration(7000)
    ('48 s', '3 min', '1.9 h')
    """
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    if seconds < 5400:  # noqa: PLR2004
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def seconds(value: float | None) -> str:
    """A measured time.

    >>> seconds(48), seconds(200), seconds(None)
    ('48.0 s', '3.3 min', '–')
    """
    if value is None:
        return MISSING
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"  # noqa: PLR2004


def size(count: float | None) -> str:
    """A number of bytes.

    >>> size(100), size(2048), size(3 * 2**30), size(None)
    ('100 B', '2.0 KiB', '3.00 GiB', '–')
    """
    if count is None:
        return MISSING
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


_UNUSUAL = re.compile(r"[^ -~]")
_UNUSUAL_IN_LINES = re.compile(r"[^ -~\n]")
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""What Unicode lets a reader leave out although its category is that of a letter or a mark."""
_MARK = "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_PILED = re.compile(f"(?<={_MARK}{{3}}){_MARK}|^{_MARK}")
"""Marks that belong to no letter, or pile up over other lines; no language has four on one."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


@functools.lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    """Itself, or an escape: of controls, of what turns, joins or hides other text, of separators and surrogates."""
    if character.isprintable() and not _IGNORABLE.match(character):
        return character
    code = ord(character)
    escape = f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004
    return _SHORT.get(character, escape)


def printable(text: str) -> str:
    r"""A text as one line of a terminal or a log: what a terminal would obey, and what hides or turns text, is escaped.

    >>> printable("a\x1b[2Jb\nc\u202ed")
    'a\\x1b[2Jb\\nc\\u202ed'
    """
    return _unpiled(_UNUSUAL.sub(lambda found: _shown(found[0]), text))


def laid_out(text: str) -> str:
    """The same of a text whose line breaks are ours: a table, a paragraph, a page."""
    return _unpiled(_UNUSUAL_IN_LINES.sub(lambda found: _shown(found[0]), text))


def _unpiled(text: str) -> str:
    return text if text.isascii() else _PILED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def columns(text: str) -> int:
    """How many columns of a terminal a line takes: two for a wide character, none for a mark.

    >>> columns("abc"), columns("日本"), columns("e\u0301")
    (3, 4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(one) in {"Mn", "Me"} else 1 + (unicodedata.east_asian_width(one) in {"W", "F"})
        for one in text
    )


def shortened(text: str, longest: int) -> str:
    """A text of at most so many characters; of a longer one, the beginning and a mark.

    >>> shortened("abcdef", 4), shortened("abcd", 4)
    ('abc…', 'abcd')
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


_MARKUP = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]{}|~"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "$": "&#36;"}
)
"""Markdown's own characters, by a backslash where all its readers know it there; what begins a tag, an entity, a
formula or a mention, by an entity."""
_LINK = re.compile(r"(?i)(:)(?=//)|(?<=\bwww)(\.)|(?<=\bmailto)(:)")
_BEGINNING = re.compile(r"#|[-+](?=\s|$)|[=-](?=[=-]*$)|(?<=\d)[.)](?=\s|$)")


def escaped(text: str) -> str:
    r"""Make a name or message harmless in Markdown, wherever it stands there: one line, no markup, no link.

    >>> print(escaped("a|b <script>"))
    a\|b &lt;script&gt;
    >>> print(escaped("# https://x.org"))
    \# https&#58;//x.org
    """
    flat = printable(" ".join(text.split())).translate(_MARKUP).replace("!\\[", "\\!\\[")
    flat = _LINK.sub(lambda found: f"&#{ord(found[0])};", flat)
    begins = re.match(r"\d*", flat)
    start = begins.end() if begins else 0
    if _BEGINNING.match(flat, start) and (start == 0 or flat[start] in ".)"):
        flat = f"{flat[:start]}\\{flat[start:]}"
    return flat


def in_html(text: str) -> str:
    """A text inside an element or a quoted attribute of HTML.

    >>> in_html('<a href="x">')
    '&lt;a href=&quot;x&quot;&gt;'
    """
    return html.escape(laid_out(text))


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "`": r"\textasciigrave{}",
    }
)


def in_latex(text: str) -> str:
    r"""A text in one line of LaTeX, outside of mathematics.

    >>> print(in_latex("50% of $x_1$"))
    50\% of \$x\_1\$
    """
    return printable(" ".join(text.split())).translate(_LATEX)


def in_csv(text: str) -> str:
    r"""A text as the value of a cell that no spreadsheet computes, before it is quoted.

    In front of what a spreadsheet would take for a formula stands an apostrophe. Characters that a terminal obeys are
    escaped, line breaks stay. JSON Lines and Parquet hold every text as it is.

    >>> in_csv("=1+1"), in_csv("a=1"), in_csv("a\tb")
    ("'=1+1", 'a=1', 'a\\tb')
    """
    shown = laid_out(text)
    first = unicodedata.normalize("NFKC", text.lstrip().lstrip("'").lstrip()[:1])  # wide forms count as well
    return f"'{shown}" if first[:1] in {"=", "+", "-", "@"} or text[:1] in {"\t", "\r"} else shown


def in_json(encoded: str) -> str:
    r"""JSON of any text, with what a terminal obeys written as escapes, which mean the same.

    >>> print(in_json('"a\u202eb"'))
    "a\u202eb"
    """
    return _UNUSUAL_IN_LINES.sub(
        lambda found: found[0] if _shown(found[0]) == found[0] else json.dumps(found[0])[1:-1], encoded
    )


_FIT = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_UNFIT = re.compile(r"[^a-z0-9_-]+")


def file_name(text: str) -> str:
    """A name as a part of a file's: itself where it is fit, else what is fit of it and a hash, so that two stay two.

    >>> file_name("cifar10.lenet"), file_name("../../etc")
    ('cifar10.lenet', 'etc-74ccf3c5')
    """
    if _FIT.fullmatch(text):
        return text
    fit = _UNFIT.sub("-", text.lower()).strip("-_")[:40]
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{fit or 'unnamed'}-{digest}"
