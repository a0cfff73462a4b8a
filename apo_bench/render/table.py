"""A table of runs as CSV, JSON Lines or Parquet."""

import io

import msgspec
import pandas as pd


def encode_table(frame: pd.DataFrame, form: str) -> bytes:
    """Encode as ``csv``, ``jsonl`` or ``parquet``."""
    buffer = io.BytesIO()
    if form == "parquet":
        frame.to_parquet(buffer, index=False)
    elif form == "jsonl":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")  # pandas would round small numbers
        buffer.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
    else:
        frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()
