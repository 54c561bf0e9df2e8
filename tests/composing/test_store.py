"""ddcore_store: what a set is stored as, before it is labelled and saved."""

import pytest

from ddcore import load_artifact
from ddcore.testing import ddcore_cli  # noqa: F401  fixture

pytestmark = pytest.mark.usefixtures("probes")

STORE = """
    import attrs
    from attrs import frozen
    from ddcore import Plugin, hookimpl

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        summary = "stores otherwise"

        @hookimpl
        def ddcore_store(self, synthetic, run):
            %s
"""
DOUBLED = 'return attrs.evolve(synthetic, tensors={"pixels": 2 * synthetic.tensors["pixels"]}, notes=(*synthetic.notes, "doubled"))'
ZEROED = 'return attrs.evolve(synthetic, tensors={"pixels": 0 * synthetic.tensors["pixels"] + 1})'


@pytest.fixture
def run_with(site, ddcore_cli, tmp_path):  # noqa: F811
    def call(*bodies):
        words = ["run", *ddcore_cli.tiny, "--plugin", "pull", "--steps", 1, "--out", tmp_path / "run", "--json"]
        for number, body in enumerate(bodies):
            site.put(f"store{number}", STORE % body)
            words += ["--plugin", f"store{number}"]
        return ddcore_cli(*words)

    return call


def test_plugins_store_in_the_order_of_the_command_line_and_notes_are_kept(run_with, tmp_path):
    answer = run_with(ZEROED, DOUBLED)
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert answer.code == 0 and bool((artifact.images() == 2).all())
    assert "doubled" in artifact.manifest["notes"] and "doubled" in answer.err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return synthetic.tensors", "returned dict where a Synthetic is due"),
        ("return attrs.evolve(synthetic, classes=synthetic.classes.flip(0))", "samples of other classes"),
    ],
)
def test_what_is_no_set_of_the_same_samples_is_refused(body, words, run_with):
    answer = run_with(body)
    assert answer.code == 2 and words in answer.err and "ddcore_store of 'store0' (ddcore-store0 1.2)" in answer.err
