"""Does it survive? Kills and stops of every command, a store that fails, hostile files, bombs, and work in other processes.

``kills``, ``others``, ``stops``: commands that are ended at random moments and changes of files, gone on with, and compared bit for bit
with uninterrupted ones. ``workers``: the same of runs whose workers are killed. ``full disks``: commands whose disk fills up, at every stage of them. ``stores``: runs on an S3 server of this machine, of whose requests a share fails. ``fuzz``: altered files of every kind
that is read. ``bombs``: files that would take all memory, and the peak of a process that reads each. ``rates``: tasks of recovery done
per second by one worker and two, of processes and of ray. The record is ``reliability.json``, part by part.

    python examples/benchmarks/reliability.py
    python examples/benchmarks/reliability.py kills fuzz --tiny
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from records import RESULTS, machine, write

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

NAME = "reliability"


def main() -> None:
    """Measure what is named, and put it into the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", choices=[[], *PARTS], default=[*PARTS], metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--tiny", action="store_true", help="just to see that it works; writes no record")
    given = parser.parse_args()
    for part in given.parts:
        found = PARTS[part](given.tiny)
        print(json.dumps({part: found}, indent=2), flush=True)
        if not given.tiny:
            keep(part, found)


def keep(part: str, found: Mapping[str, Any]) -> None:
    """Put a part into the record; the others stay."""
    file = RESULTS / f"{NAME}.json"
    record = json.loads(file.read_text()) if file.exists() else {"what": "what ended, failed or attacked runs came to"}
    write(NAME, {**record, part: {**found, "date": machine()["date"]}, **machine()})


def kills(tiny: bool) -> dict[str, Any]:
    """Attempts under SIGKILL."""
    from reliability.kills import measure

    return measure(kills=4 if tiny else 200)


def others(tiny: bool) -> dict[str, Any]:
    """Attempts of commands that neither distil nor train, under SIGKILL."""
    from reliability.kills import OTHERS, measure

    return measure(kills=4 if tiny else 100, seed=1, cycle=OTHERS)


def workers(tiny: bool) -> dict[str, Any]:
    """Runs with ``--jobs 2`` whose workers are killed."""
    from reliability.kills import measure_workers

    with tempfile.TemporaryDirectory() as folder:
        return measure_workers(1 if tiny else 10, seed=1, folder=Path(folder))


def full_disks(tiny: bool) -> dict[str, Any]:
    """Commands on small disks that fill up at each stage, and then have room again; for who may mount."""
    from reliability.disks import STAGES, measure

    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), tuple(STAGES)[:: 9 if tiny else 1])


def stops(tiny: bool) -> dict[str, Any]:
    """Attempts under SIGTERM and SIGINT."""
    from reliability.kills import measure_stops

    return measure_stops(stops=4 if tiny else 60)


def stores(tiny: bool) -> dict[str, Any]:
    """Runs on a failing store."""
    from reliability.stores import measure

    with tempfile.TemporaryDirectory() as folder:
        return measure(1 if tiny else 10, 0.15, Path(folder))


def fuzz(tiny: bool) -> dict[str, Any]:
    """Altered files."""
    from reliability.fuzz import measure

    return measure(cases=50 if tiny else 4000)


def bombs(tiny: bool) -> dict[str, Any]:
    """Files that would take all memory."""
    from reliability.bombs import measure_bombs

    return measure_bombs()


def rates(tiny: bool) -> dict[str, Any]:
    """Tasks done per second, one worker and two."""
    from recovery_jobs import measure

    return measure(ipc=2, steps=5) if tiny else measure()


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "kills": kills,
    "others": others,
    "workers": workers,
    "full disks": full_disks,
    "stops": stops,
    "stores": stores,
    "fuzz": fuzz,
    "bombs": bombs,
    "rates": rates,
}

if __name__ == "__main__":
    main()
