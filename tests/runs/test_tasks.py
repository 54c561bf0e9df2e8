"""Whose a run's folder is while its tasks are done, and before."""

import gc

import pytest

from ddcore.config import Config
from ddcore.errors import InputError
from ddcore.runs.tasks import Tasks
from ddcore.storage.holding import held
from ddcore.storage.places import Place


def test_a_run_holds_its_folder_from_its_claim_until_its_work_is_done_or_it_is_thrown_away(tmp_path):
    def refused():
        with pytest.raises(InputError, match="is being worked on by"), held(Place.at(tmp_path / "run")):
            pass

    def tasks():
        return Tasks(Place.at(tmp_path / "run"), Config(), None, None)

    first = tasks()
    with first.claiming():
        refused()
    refused()
    with first.at_work(Place.at(tmp_path / "cache")):
        refused()
    with held(Place.at(tmp_path / "run")):
        pass
    with pytest.raises(ValueError, match="no"), first.claiming():
        raise ValueError("no")
    with first.at_work(Place.at(tmp_path / "cache")):
        refused()
    with first.claiming():
        pass
    refused()
    del first
    gc.collect()
    second = tasks()
    with held(Place.at(tmp_path / "run")) as hold:
        second.under(hold)
        with second.at_work(Place.at(tmp_path / "cache")):
            refused()
        refused()
