"""Tests sign run folders with a key of their own, so that none is made among the settings of whoever runs them.

``DDCORE_TEST_SEED_SHIFT=1`` moves every seed of every test and of every process that a test starts: none may hang on its luck.
"""

import os
import runpy
from pathlib import Path

MOVED = Path(__file__).parent / "tests" / "moved_seeds"

os.environ.setdefault("DDCORE_SIGNING_SECRET", "a key for tests, of nobody's run folders")
if os.environ.get("DDCORE_TEST_SEED_SHIFT", "0") != "0":
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MOVED), os.environ.get("PYTHONPATH"))))
    runpy.run_path(str(MOVED / "sitecustomize.py"))
