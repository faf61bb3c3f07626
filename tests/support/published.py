"""A variant whose published weights are small, for tests of downloads."""

from __future__ import annotations

import hashlib
import random

from densenet_cli.topology import DenseNetConfig
from densenet_cli.variants import Variant, WeightsFile

NAME = "tiny_weights.h5"
DATA = random.Random(9).randbytes(400_000)
MD5 = hashlib.md5(DATA).hexdigest()
TINY = Variant("tiny-published", DenseNetConfig((1, 1, 1, 1), 4, stem_width=8), WeightsFile(NAME, MD5))

CHILD = """
import os, sys
from densenet_cli.http import Timeouts
from densenet_cli.weights import store, download
import requests
from tests.support.published import DATA, TINY
download.RETRY_DELAYS, download.TIMEOUTS = (0.0, 0.0), Timeouts(2, 5, None)
"""
"""The first lines of a script for another process: its imports."""
