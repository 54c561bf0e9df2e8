"""From `ddcore plugins new` to green tests: what each step takes, for every kind. ddcore itself is installed before.

python examples/benchmarks/new_plugin.py
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from records import machine, write

from ddcore.kit.scaffold import KINDS


def main() -> None:
    """Generate, install, check and test a package of every kind; write the record."""
    kinds = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            kinds[kind] = steps(kind, Path(folder))
            print(kind, kinds[kind], flush=True)
    record = {
        "what": "seconds from `ddcore plugins new` to green tests, one process after the other",
        "command": "python examples/benchmarks/new_plugin.py",
        "kinds": kinds,
        "longest": max(sum(of.values()) for of in kinds.values()),
        **machine(),
    }
    write("new_plugin", record)
    print(json.dumps(record["longest"]))


def steps(kind: str, folder: Path) -> dict[str, float]:
    """Seconds of each step."""
    name = f"a-{kind}"
    package, site = folder / f"ddcore-{name}", folder / "site"
    environment = {**os.environ, "PYTHONPATH": str(site), "DDCORE_CACHE": str(folder / "cache")}
    commands = {
        "new": ["ddcore", "plugins", "new", name, "--kind", kind, "--out", str(folder)],
        "install": ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), str(package)],
        "check": ["ddcore", "plugins", "check", name],
        "test": ["pytest", "-p", "no:cacheprovider", str(package)],
    }
    taken = {}
    for step, words in commands.items():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", *words], env=environment, cwd=folder, check=True, capture_output=True)
        taken[step] = round(time.perf_counter() - start, 2)
    return taken


if __name__ == "__main__":
    main()
