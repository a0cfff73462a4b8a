"""`apo-bench doctor`: what works here and what does not."""

import json

from support.commands import PLUG
from support.shell import Shell


def test_doctor_finds_what_is_wrong(tiny_shell: Shell) -> None:
    checks = json.loads(tiny_shell("doctor", "--json").stdout)
    found = {check["name"]: check["state"] for check in checks}
    assert found["torch"] == found["plugins"] == "ok"
    tiny_shell.install("plug", "raise RuntimeError('boom')\n", PLUG)
    broken = tiny_shell("doctor", status=1)
    assert "broken   plugins    'plug' from plug 1.0 fails to import" in broken.stdout
