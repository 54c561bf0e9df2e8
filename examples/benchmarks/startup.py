"""How long ``ddcore --help`` and ``ddcore plugins`` take as whole processes.

python examples/benchmarks/startup.py
"""

import json
import subprocess
import sys
import time
from statistics import median

from records import machine, write

COMMANDS = {"ddcore --help": ["--help"], "ddcore plugins": ["plugins"], "ddcore run --help": ["run", "--help"]}
CODE = "import sys; from ddcore.cli import invoke; invoke(sys.argv[1:]); sys.exit('torch' in sys.modules)"


def main() -> None:
    """Time each several times and write the record."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(7):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", CODE, *arguments], check=True, capture_output=True)
            seconds[name].append(round(time.perf_counter() - start, 3))
    record = {
        "what": "seconds of a whole process, without torch",
        "median": {name: median(values) for name, values in seconds.items()},
        "seconds": seconds,
        **machine(),
    }
    write("startup", record)
    print(json.dumps(record["median"], indent=2))


if __name__ == "__main__":
    main()
