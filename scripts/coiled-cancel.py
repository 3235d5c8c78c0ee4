#!/usr/bin/env python3
"""Stop Coiled jobs on Ctrl-C, in the background.

Snakemake gives its cancel command two seconds and then kills it, which is less than a client needs to
start. This one only starts the real command, in a session of its own that neither that limit nor the
terminal's Ctrl-C reaches. Its log is .snakemake/rented/cancel.log.
"""

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(".snakemake/rented")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "cancel.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "aifs_ensemble", "coiled-cancel", *sys.argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
