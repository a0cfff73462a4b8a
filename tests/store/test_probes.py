"""A store keeps probes, and damaged ones stop nothing."""

from pathlib import Path

import msgspec
import pytest
from support.records import flat

from apo_bench.records.probe import decode_probe
from apo_bench.records.run import encode
from apo_bench.store.store import Store


def test_a_store_keeps_probes_and_sets_damaged_ones_aside(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    whole, broken, renamed = (store.keep_probe(flat(x)) for x in (8.0, 9.0, 10.0))
    broken.write_bytes(broken.read_bytes()[:-20])
    renamed.rename(renamed.with_name("0123456789abcdef-1.json"))
    scan = store.scan()
    assert [probe.competitors[1].kinds[0].milliseconds[0][0] for probe in scan.probes] == [8.0]
    assert scan.damaged == store.scan().damaged
    assert {found.path for found in scan.damaged} == {broken, renamed.with_name("0123456789abcdef-1.json")}
    store.set_aside(scan.damaged)
    assert not store.scan().damaged
    assert decode_probe(whole.read_bytes()) == scan.probes[0]
    with pytest.raises(ValueError, match="schema 99"):
        decode_probe(encode(msgspec.structs.replace(flat(), schema=99)))
