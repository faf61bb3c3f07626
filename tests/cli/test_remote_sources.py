"""Images in object storage: the same records as for local files, faults of the storage, and errors before any work."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Fault, times
