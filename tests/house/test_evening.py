"""What the author of a plugin has to know is an evening's reading, and stays that."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = 2000
READ = ("runs/distil.py", "runs/loop.py", "api/hooks.py", "api/types.py", "api/plugin.py", "api/services.py")


def test_what_an_author_reads_has_at_most_so_many_lines():
    files = {*(ROOT / "ddcore").glob("api/*.py"), *(ROOT / "ddcore" / name for name in READ)}
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sorted(files)}
    assert sum(lines.values()) <= LINES, lines


def test_contributing_names_these_files_and_no_others_under_an_evening():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("### An evening\n")[2].partition("\n##")[0]
    named = [word for word in section.split("`")[1::2] if word.startswith("ddcore/")]
    assert sorted(named) == sorted(f"ddcore/{name}" for name in READ)
    assert {f"ddcore/{name}" for name in READ if name.startswith("api/")} | {"ddcore/api/__init__.py"} == {
        str(file.relative_to(ROOT)) for file in (ROOT / "ddcore/api").glob("*.py")
    }
    assert f"at most {LINES:,} lines" in section
