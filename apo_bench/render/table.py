"""A table of runs as CSV, JSON Lines or Parquet."""

import io
import re

import msgspec
import pandas as pd

from apo_bench.text import in_csv, in_json

_QUOTED = re.compile(r'[,;"\n]')
"""Cells with any of these stand in quotation marks; some spreadsheets take a semicolon for the end of a cell."""


def encode_table(frame: pd.DataFrame, form: str) -> bytes:
    """Encode as ``csv``, ``jsonl`` or ``parquet``; of a text, the first is safe for spreadsheets, the others exact."""
    if form == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")  # pandas would round small numbers
    if form == "jsonl":
        return "".join(f"{in_json(msgspec.json.encode(row).decode())}\n" for row in rows).encode()
    cells = [list(frame.columns), *(row.values() for row in rows)]
    return "".join(f"{','.join(map(_cell, row))}\n" for row in cells).encode()


def _cell(value: object) -> str:
    """A number stays a number; a missing value is empty."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = in_csv(value)
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
