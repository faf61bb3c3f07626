"""A variant with published weights of a few bytes, for tests of how they get here."""

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
from densenet_cli.http import Limits
from densenet_cli.weights import store, download
import requests
from tests.support.published import DATA, TINY
download.PAUSES, download.LIMITS = (0.0, 0.0), Limits(2, 5, None)
"""
"""Beginning of a script for another process: everything imported, nothing done."""
