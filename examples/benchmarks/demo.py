"""The README's first command: time of each part, and the rows it prints.

python examples/benchmarks/demo.py
"""

import json
import tempfile
import time
from pathlib import Path

from records import machine, write

from ddcore.cli.app import invoke

COMMAND = ["run", "--plugin", "fyi", "--plugin", "datm", "--dataset", "digits", "--ipc", "1"]


def main() -> None:
    """Run it with an empty cache and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.perf_counter()
        if invoke([*COMMAND, "--out", str(run), "--cache", str(Path(folder) / "cache")]):
            raise SystemExit("the demo failed")
        seconds = time.perf_counter() - start
        events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        rows = json.loads((run / "scores.json").read_text())["rows"]
        environment = json.loads((run / "run.json").read_text())["environment"]
    steps = [event for event in events if event["event"] == "step"]
    record = {
        "what": f"ddcore {' '.join(COMMAND)}",
        "seconds": {
            "all": round(seconds, 1),
            "distillation": round(sum(step["seconds"] for step in steps), 1),
        },
        "rows": rows,
        "environment": environment,
        **machine(),
    }
    write("demo", record)
    means = {f"{row['set']} ({row['labels']})": round(row["accuracy"]["mean"], 3) for row in rows}
    print(json.dumps({"seconds": record["seconds"], "accuracy": means}, indent=2))


if __name__ == "__main__":
    main()
