"""A plugin for pytest: tests run as where Numba is not installed.

python -m pytest -p tests.without_numba tests/test_engine.py
"""

import sys

sys.modules["numba"] = None
