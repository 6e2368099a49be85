"""Choosing and reporting the device."""

import subprocess
import sys

import pytest
import torch

from lm_core import device as devices
from lm_core.device import DeviceFacts, choose_device, describe, device_lock, memory_budget_bytes
from lm_core.errors import ParameterError, ResourceError

MIB = 2**20
CPU = torch.device("cpu")


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_the_cpu_where_nothing_else_is(no_accelerator):
    assert choose_device() == CPU
    assert choose_device("cpu") == CPU


def test_auto_prefers_cuda_then_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "mps", "tpu", "", "CPU ", "cpu:3"])
def test_an_absent_or_unknown_device_is_refused_and_never_replaced(no_accelerator, name):
    with pytest.raises(ParameterError, match="this machine has cpu"):
        choose_device(name)


def test_the_cpu_is_described_with_plausible_figures():
    facts = describe(CPU)
    assert isinstance(facts, DeviceFacts) and facts.kind == "cpu" and facts.name
    assert 0 < facts.memory_free <= facts.memory_total
    assert facts.threads == torch.get_num_threads()
    assert facts.dtype in ("float32", "bfloat16")


@pytest.mark.parametrize(("free", "budget"), [(64, 64), (100, 64), (1000, 250), (10_000, 512), (10**6, 512)])
def test_the_cpu_budget_is_a_bounded_part_of_the_free_memory(monkeypatch, free, budget):
    monkeypatch.setattr(devices, "describe", lambda device: DeviceFacts("x", "cpu", 10**12, free * MIB, 1, "float32"))
    assert memory_budget_bytes(CPU) == budget * MIB


def test_a_card_lends_half_of_its_free_memory(monkeypatch):
    monkeypatch.setattr(devices, "describe", lambda device: DeviceFacts("x", "cuda", 10**12, 8000 * MIB, 1, "bfloat16"))
    assert memory_budget_bytes(torch.device("cuda:0")) == 4000 * MIB


def test_a_full_machine_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr(devices, "describe", lambda device: DeviceFacts("x", "cpu", 10**12, 10 * MIB, 1, "float32"))
    with pytest.raises(ResourceError, match="Only 10 MiB"):
        memory_budget_bytes(CPU)


def test_each_device_has_one_lock():
    assert device_lock("cpu") is device_lock(CPU)
    assert device_lock("cuda") is device_lock("cuda:0")
    assert device_lock("cuda:0") is not device_lock("cuda:1")
    with device_lock("cpu"):
        assert not device_lock(CPU).acquire(blocking=False)


def test_releasing_memory_drops_registered_caches_and_gives_memory_back(monkeypatch):
    monkeypatch.setattr(devices, "_forget", [])
    held = {"block": bytearray(200 * MIB)}
    held["block"][:: 4 * 1024] = b"x" * len(held["block"][:: 4 * 1024])  # touch every page, so that it really is held
    devices.on_release(held.clear)
    before = devices.process_memory_bytes()
    assert devices.release_memory() > 100 * MIB
    assert devices.process_memory_bytes() < before
    assert held == {}


def test_importing_the_module_imports_no_torch():
    code = "import sys, lm_core.device; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA card")
def test_a_card_is_described_with_its_own_memory():
    facts = describe(choose_device("cuda"))
    assert facts.kind == "cuda" and 0 < facts.memory_free <= facts.memory_total
