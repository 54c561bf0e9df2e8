"""Tests sign run folders with a key of their own, so that none is made among the settings of whoever runs them."""

import os

os.environ.setdefault("DDCORE_SIGNING_SECRET", "a key for tests, of nobody's run folders")
