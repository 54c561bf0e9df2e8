"""Runs whose files lie on an S3 server of this machine, while requests fail, connections end, listings lag, and disks fill up."""

import shutil
import subprocess

import pytest
from reliability import stores

needs_store = pytest.mark.skipif(
    stores.MISSING is not None, reason=f"{stores.MISSING} is not installed: pip install 'moto[server]' s3fs boto3"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with stores.shop(tmp_path_factory.mktemp("shop")) as here:
        yield here


@pytest.fixture
def calm(shop):
    """The store while nothing fails; a test may change that."""
    shop.proxy.plan = lambda method, path, number: None
    shop.proxy.injected.clear()
    shop.proxy.requests = 0
    return shop


@pytest.fixture(scope="module")
def local(shop):
    """The run on this machine's disk: what every other place has to give too."""
    end = shop.run(str(shop.folder))
    assert end.code == 0, end.said
    return stores.made(str(shop.folder))


@needs_store
def test_a_run_on_a_failing_store_gives_the_bits_of_a_local_one(local, calm):
    place, calm.proxy.plan = calm.bucket(), stores.at_random(0.15, seed=1)
    end = calm.run(place)
    assert end.code == 0 and not end.traceback, end.said
    assert sum(calm.proxy.injected.values()) > 20 and len(calm.proxy.injected) > 3
    assert stores.made(place, calm.url) == local


@needs_store
def test_a_store_that_goes_away_stops_the_run_with_one_sentence_and_it_goes_on_later(local, calm):
    place, calm.proxy.plan = calm.bucket(), lambda method, path, number: stores.ERROR if number > 60 else None
    end = calm.run(place)
    errors = [line for line in end.said.splitlines() if line.startswith("error:")]
    assert end.code == 2 and not end.traceback, end.said
    assert len(errors) == 1 and "in 5 attempts" in errors[0] and f"{place}/" in errors[0]
    assert f"ddcore resume {place}/run" in errors[0]
    calm.proxy.plan = lambda method, path, number: None
    end = calm.again(place)
    assert end.code == 0, end.said
    assert stores.made(place, calm.url) == local


@needs_store
def test_nothing_hangs_on_a_listing_that_lags(local, calm):
    place = calm.bucket()
    calm.proxy.plan = lambda method, path, number: stores.LAG if stores.is_listing(method, path) else None
    end = calm.run(place)
    assert end.code == 0, end.said
    assert stores.made(place, calm.url) == local
    assert calm.do("inspect", f"{place}/run/artifact").code == 0


@needs_store
def test_an_artifact_whose_manifest_did_not_arrive_is_none_and_altered_ones_are_refused(local, calm):
    import boto3

    place = calm.bucket()
    calm.proxy.plan = lambda method, path, number: stores.ERROR if "manifest" in path and method == "PUT" else None
    end = calm.run(place)
    assert end.code == 2 and "manifest.json cannot be written in 5 attempts" in end.said
    end = calm.do("inspect", f"{place}/run/artifact")
    assert end.code == 2 and not end.traceback
    calm.proxy.plan = lambda method, path, number: None
    assert calm.again(place).code == 0 and stores.made(place, calm.url) == local
    client = boto3.client("s3", endpoint_url=calm.url, **stores.KEYS)
    where = {"Bucket": place.removeprefix("s3://"), "Key": "run/artifact/images.safetensors"}
    content = bytearray(client.get_object(**where)["Body"].read())
    content[-1] ^= 1
    client.put_object(**where, Body=bytes(content))
    end = calm.do("inspect", f"{place}/run/artifact")
    assert end.code == 2 and "images.safetensors is altered or cut short" in end.said


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "ddcore-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("left", [20_000, 60_000, 110_000])
def test_a_full_disk_stops_the_run_says_what_is_needed_and_keeps_what_there_is(local, calm, small_disk, left):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (300_000 - left))
    end = calm.run(str(small_disk))
    error = next(line for line in end.said.splitlines() if line.startswith(("error:", "stopped:")))
    assert end.code == 3 and not end.traceback, end.said
    assert "the disk is full" in error and "bytes are needed" in error
    assert ("ddcore resume" in error) == (small_disk / "run" / "run.json").exists()
    assert not list(small_disk.rglob("*.part"))
    filler.unlink()
    end = calm.again(str(small_disk))
    assert end.code == 0, end.said
    assert stores.made(str(small_disk)) == local


@needs_store
@pytest.mark.slow
def test_measuring_counts_what_happened(tmp_path):
    found = stores.measure(1, 0.1, tmp_path)
    assert found["finished"] == 1 and found["faults"] > 5
    assert not found["differing"] + found["lost"] + found["tracebacks"]
