"""A service under a mix of requests loses none while workers are recycled, and while it is reloaded and upgraded.

`make soak-restarts` does the same for longer. `benches/service_client.c` says which failures count.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"

SECONDS = 400
"""The test takes 35 s, most of it waiting for workers that end."""


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.skipif(shutil.which("cc") is None, reason="the client needs a C compiler (apt install gcc libc6-dev)")
def test_no_request_is_lost_while_services_are_restarted_in_every_way(tmp_path: Path) -> None:
    """Five times each: recycling by each limit, SIGHUP, SIGUSR2, its rollback, SIGTTIN, SIGKILL, a stop and a start."""
    log = tmp_path / "services.log"
    command = [sys.executable, str(BENCHES / "restarts.py"), "--quick", "--rate", "200", "--log", str(log)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    print(run.stderr)
    assert run.returncode == 0, log.read_text()[-4000:]
