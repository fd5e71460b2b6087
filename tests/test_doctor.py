import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from lora_lab.assets import downloads
from lora_lab.cli import doctor
from lora_lab.cli.doctor import FAIL, OK, WARN, Check, Diagnosis
from lora_lab.machine import resources
from lora_lab.places import NotPrepared

ROOT = Path(__file__).parents[1]


# --- the report ---------------------------------------------------------------------------------


def test_the_report_is_plain_text_with_each_remedy_under_its_finding():
    diagnosis = Diagnosis((Check("Python", OK, "3.12"), Check("memory", WARN, "little", "buy")))
    assert repr(diagnosis) == (
        "ok   Python         3.12\n"
        "warn memory         little\n"
        "                    -> buy\n"
        "The laboratory works here; 1 to know about."
    )


@pytest.mark.parametrize(
    ("statuses", "ok", "words"),
    [
        ([OK, OK], True, "everything in place"),
        ([OK, WARN, WARN], True, "2 to know about"),
        ([WARN, FAIL], False, "1 to mend"),
    ],
)
def test_only_a_failure_means_that_it_does_not_work(statuses, ok, words):
    diagnosis = Diagnosis(tuple(Check("x", status, "") for status in statuses))
    assert diagnosis.ok is ok
    assert words in diagnosis.summary


def test_the_doctor_looks_at_everything_prints_nothing_and_names_this_python(capfd):
    found = doctor.doctor()
    names = [check.name for check in found.checks]
    assert len(names) == len(set(names)) == 15
    by_name = {check.name: check for check in found.checks}
    assert sys.version.split()[0] in by_name["Python"].found
    assert f"torch {version('torch')}" in by_name["packages"].found
    assert by_name["kernel"].status == OK
    assert all(check.remedy for check in found.checks if check.status != OK)
    assert capfd.readouterr() == ("", "")


def test_a_look_that_fails_is_reported_and_not_raised():
    def broken():
        raise ImportError("libcudart.so.12: cannot open\nshared object file")

    check = doctor._checked("device", broken)
    assert (check.status, check.name) == (FAIL, "device")
    assert "ImportError: libcudart.so.12: cannot open shared object file" in check.found
    assert check.remedy


# --- packages -----------------------------------------------------------------------------------


def test_the_least_versions_are_those_of_pyproject():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    plain = dict(entry.split(">=") for entry in entries if ";" not in entry)
    assert doctor.requirements() == plain
    assert plain["torch"]


def test_a_missing_package_and_an_old_one_are_named_with_the_command_that_mends_them():
    check = doctor.packages({"torch": "999.1", "no-such-package": "2", "typer": "0.1"})
    assert check.status == FAIL
    assert check.found == (f"torch {version('torch')} is too old; no-such-package is missing")
    assert check.remedy == 'pip install --upgrade "torch>=999.1" "no-such-package>=2"'


@pytest.mark.parametrize(
    ("there", "enough"),
    [("2.13.0+cpu", True), ("2.6.0", True), ("2.6", True), ("2.5.9", False), ("2.6rc1", True)],
)
def test_versions_are_compared_number_by_number(there, enough, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: there)
    assert (doctor.packages({"torch": "2.6.0"}).status == OK) is enough


def test_without_metadata_of_our_own_it_says_so(monkeypatch):
    def lost(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", lost)
    check = doctor.packages()
    assert (check.status, "not installed" in check.found) == (WARN, True)


# --- device, threads, memory --------------------------------------------------------------------


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(torch.version, "cuda", None)


def test_a_driver_with_a_torch_that_has_no_cuda_is_a_gpu_gone_to_waste(without_gpu, monkeypatch):
    assert doctor.device() == Check("device", OK, "the CPU (no GPU that torch can use)")
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/nvidia-smi")
    check = doctor.device()
    assert (check.status, "build without CUDA" in check.found) == (WARN, True)
    assert "CUDA" in check.remedy


def test_hidden_gpus_are_said_to_be_hidden(without_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "finds no NVIDIA GPU" in doctor.device().found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides" in doctor.device().found


def test_the_number_format_comes_with_its_reason(without_gpu, monkeypatch):
    from lora_lab.machine import devices

    monkeypatch.setattr(devices, "bfloat16_speed", lambda width: 2.5)
    assert doctor.number_format().found == (
        "float32 for pocket, bfloat16 for others (bfloat16 measured 2.5 × as fast here)"
    )
    monkeypatch.setattr(devices, "bfloat16_speed", lambda width: 0.5)
    assert doctor.number_format().found == "float32 (bfloat16 measured 0.5 × as fast here)"


def test_more_threads_than_cores_are_warned_of(monkeypatch):
    monkeypatch.setattr(resources, "cores", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    check = doctor.threads()
    assert check.status == WARN
    assert check.found.startswith("64 for torch, on 2 usable cores")
    assert "OMP_NUM_THREADS=2" in check.remedy
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert doctor.threads() == Check("threads", OK, "2 for torch, on 2 usable cores")


@pytest.mark.parametrize(("free", "status"), [(8e9, OK), (4e9, OK), (2e9, WARN), (0.5e9, FAIL)])
def test_memory_is_enough_for_both_bases_or_for_pocket_or_for_none(free, status, monkeypatch):
    monkeypatch.setattr(resources, "memory", lambda: (16e9, free))
    check = doctor.memory()
    assert check.status == status
    assert bool(check.remedy) is (status != OK)


# --- places and what was prepared ---------------------------------------------------------------


def test_a_place_that_is_not_there_yet_is_judged_by_the_folder_above(tmp_path):
    check = doctor.place("cache", tmp_path / "not" / "yet", "LORA_LAB_CACHE")
    assert (check.status, str(tmp_path) in check.found) == (OK, True)
    assert [*tmp_path.iterdir()] == []


def test_a_place_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check = doctor.place("runs", tmp_path / "file", "LORA_LAB_STORE")
    assert (check.status, "can't be written" in check.found) == (FAIL, True)
    assert "LORA_LAB_STORE" in check.remedy


def test_a_full_disk_is_a_failure_and_little_room_a_warning(tmp_path, monkeypatch):
    for free, status in ((50e6, FAIL), (500e6, WARN), (5e9, OK)):
        usage = shutil._ntuple_diskusage(1e12, 1e12 - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        assert doctor.place("cache", tmp_path, "LORA_LAB_CACHE").status == status


def test_with_an_empty_cache_what_lacks_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    texts, smollm2 = doctor.texts(), doctor.base("smollm2", WARN, doctor.PREPARE)
    assert texts.status == smollm2.status == WARN
    assert "film-reviews is not prepared yet" in texts.found
    assert texts.remedy == smollm2.remedy
    assert "lora-lab prepare" in texts.remedy
    assert [*tmp_path.iterdir()] == []


def test_one_damaged_text_is_named_alone(tmp_path, monkeypatch):
    def prepared(name):
        if name == "bible-verses":
            raise NotPrepared("'bible-verses' is damaged; run `lora-lab prepare`")
        return tmp_path

    monkeypatch.setattr(downloads, "prepared", prepared)
    assert doctor.texts().found == "bible-verses is damaged"


# --- what is tried in a process of its own ------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "expected"),
    [("python", OK), (sys.executable, OK), ("/opt/other/bin/python", WARN), (None, FAIL)],
)
def test_the_kernel_must_run_this_python(program, expected, monkeypatch):
    def listed(manager, name):
        if program is None:
            raise NoSuchKernel(name)
        return KernelSpec(argv=[program, "-m", "ipykernel_launcher"])

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", listed)
    assert doctor.kernel().status == expected


def test_bitsandbytes_is_missing_broken_or_works(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: "0.50.2")
    assert doctor.quantisation(0, "cuda\n", "").found == "0.50.2 quantises to NF4 on the GPU"
    broken = doctor.quantisation(1, "", "OSError: libcusparse.so.11 not found")
    assert (broken.status, "libcusparse" in broken.found) == (WARN, True)
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert "missing" in doctor.quantisation(1, "", "").found


def test_a_trial_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    with doctor._trial(("-c", "import time; time.sleep(60)")) as process:
        assert doctor._trial_outcome(process) == (1, "", "no answer after 0.2 s")
    assert isinstance(process, subprocess.Popen)
    assert process.returncode is not None


def test_settings_that_change_things_are_shown(monkeypatch):
    for name in doctor.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert doctor.settings().found == "none of our environment variables is set"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor.settings().found == "HF_HUB_OFFLINE=1"
