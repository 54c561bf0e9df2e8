"""What ``ddcore doctor`` says of a healthy installation, and of one that is not."""

import json
import shutil
import subprocess
import sys

import pytest

from ddcore.cli.app import invoke
from ddcore.commands import doctor
from ddcore.commands.doctor import NOTE, OK, PROBLEM, Finding


def of(check, findings):
    return [finding for finding in findings if finding.check == check]


def test_a_healthy_installation_has_no_problem(capsys):
    assert invoke(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    checks = {finding["check"] for finding in found["findings"]}
    assert found["healthy"] and {"torch", "torchvision", "plugins", "stores", "runs", "cache", "temporary"} <= checks
    assert invoke(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("check") and "torch" in said and "Traceback" not in said


def test_a_misspelt_variable_is_a_problem_with_the_right_name():
    found = of("environment", doctor.examine({"DDCORE_CACHEE": "x", "DDCORE_FYI__FLIP_PROB": "1", "DDCORE_IPC": "1"}))
    assert [finding.status for finding in found] == [PROBLEM, OK]
    assert "DDCORE_CACHEE" in found[0].said and "'DDCORE_CACHE'" in found[0].way_out


@pytest.mark.parametrize(("release", "status"), [("0.28.1", OK), ("0.19.0", PROBLEM)])
def test_torchvision_has_to_be_of_torch_s_age(monkeypatch, release, status):
    import torch

    from ddcore.networks.vision import import_torchvision

    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.setattr(import_torchvision(), "__version__", release)
    (found,) = doctor.torchvision_beside_torch()
    assert found.status == status and (status == OK or "as a pair" in found.way_out)


def test_a_driver_without_a_device_is_a_problem(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (found,) = doctor.cuda()
    assert found.status == PROBLEM and "CUDA build" in found.way_out
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert next(doctor.cuda()).status == NOTE


def test_what_is_not_installed_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)
    found = {finding.check: finding for finding in doctor.extras()}
    assert found["pyarrow"].status == NOTE and found["pyarrow"].way_out == "pip install 'ddcore-torch[parquet]'"

    def absent(module):
        raise ImportError(module)

    monkeypatch.setattr(doctor, "import_module", absent)
    there, missing = doctor.stores()
    assert there.said == "file" and "s3:// (pip install s3fs)" in missing.said


def test_broken_and_clashing_plugins_are_problems(monkeypatch):
    from ddcore.errors import PluginError

    class Offer:
        distribution = "ddcore-x"

    monkeypatch.setattr(doctor, "installed", lambda: {"x": [Offer], "y": [Offer, Offer], "z": [Offer]})

    def load(name):
        if name == "x":
            raise PluginError("plugin 'x' cannot be imported: upgrade it")

    monkeypatch.setattr(doctor, "load_class", load)
    found = list(doctor.plugins())
    assert [finding.status for finding in found] == [PROBLEM, PROBLEM, OK] and found[2].said == "1: z"


def test_folders_that_cannot_be_written_and_full_disks(monkeypatch, tmp_path):
    from ddcore.storage.places import Place

    assert doctor._written("runs", Place.at(tmp_path / "not/there/yet")).status == OK
    monkeypatch.setattr(doctor, "ROOM", 10**18)
    assert doctor._written("runs", Place.at(tmp_path)).status == NOTE

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    found = doctor._written("cache", Place.at(tmp_path))
    assert found.status == PROBLEM and "Permission denied" in found.said and "--cache" in found.way_out
    assert doctor._written("cache", Place.at("memory://x")).status == OK


def test_a_check_that_fails_itself_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "torch_itself", lambda: (_ for _ in ()).throw(OSError("libtorch.so: cannot open")))
    (found,) = of("torch", doctor.examine({}))
    assert found.status == PROBLEM and "libtorch.so" in found.said
    assert not doctor.healthy([found]) and "to do:" in doctor.findings_text([found])


def test_with_a_problem_the_exit_code_is_2(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("x", PROBLEM, "bad", "mend it")])
    assert invoke(["doctor"]) == 2


def test_it_runs_where_nothing_but_the_core_is_known(tmp_path):
    done = subprocess.run([sys.executable, "-m", "ddcore", "doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "to do" in done.stdout, done.stdout + done.stderr
