"""The soak, as a user runs it, for a short time: so that it cannot rot."""

import os
import subprocess
import sys

import pytest

from tests.support.lab import TREE

MINUTES, SEED = "0.3", "1"
DEADLINE_S = 90


@pytest.mark.alone
@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_a_short_soak_holds_and_says_what_it_has_done() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.main", MINUTES, "--seed", SEED],
        cwd=TREE,
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counted = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if "  " in line.strip())
    done_at_all = ("rules added", "workers killed", "datagrams received, steady flows", "laws checked")
    assert all(int(counted[name].replace(",", "")) > 0 for name in done_at_all), done.stdout
    assert done.stdout.endswith(f"seed {SEED}: everything held\n")
