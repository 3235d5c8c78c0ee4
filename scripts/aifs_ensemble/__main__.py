"""``python -m aifs_ensemble``."""

import sys

from aifs_ensemble.cli import main

sys.exit(main())
