"""The model that tests marked `models` are about: ``AIFS_TEST_MODEL``, or the demonstration.

A process has the packages of one family of models. So each other model is a run of pytest by itself (`make test`).
"""

import os

from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.overlays import use_packages

MODEL = get_model(os.environ.get("AIFS_TEST_MODEL", "demo"))
use_packages(MODEL)
