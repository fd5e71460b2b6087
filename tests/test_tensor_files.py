"""A safetensors file looked at tensor by tensor, without torch: torch's reading is the oracle."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_lab.models.tensor_files import TensorFile, load_tensors, save_tensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SMALL = [torch.float8_e4m3fn, torch.float8_e5m2]


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [*DTYPES, *SMALL])
def test_each_dtype_is_read_as_torch_reads_it(dtype, tmp_path):
    tensors = {
        "odd.place": torch.ones(3, dtype=torch.uint8),  # what follows begins at an odd byte
        "matrix": numbers(7, 5).to(dtype),
        "empty": numbers(0, 5).to(dtype),
        "one": torch.tensor(-1.5).to(dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    for name, expected in load_file(tmp_path / "x.safetensors").items():
        assert file.entries[name].shape == tuple(expected.shape)
        assert file.entries[name].numbers == expected.numel()
        if expected.is_floating_point():
            found = torch.from_numpy(file.array(name).copy())
            torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=0)
            assert file.is_finite(name)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e5m2])
def test_rows_are_evenly_spaced(dtype, tmp_path):
    matrix = numbers(10, 3).to(dtype)
    save_file({"matrix": matrix}, tmp_path / "x.safetensors")
    found = TensorFile(tmp_path / "x.safetensors").array("matrix", every=4)
    torch.testing.assert_close(torch.from_numpy(found.copy()).double(), matrix[::4].double())


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_single_number_that_is_not_finite_is_found(dtype, value, tmp_path):
    matrix = numbers(9, 4).to(dtype).clone()
    matrix[8, 3] = value
    largest = torch.full((4,), torch.finfo(dtype).max, dtype=dtype)
    save_file({"bad": matrix, "good": largest}, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    assert not file.is_finite("bad")
    assert file.is_finite("good")


def test_tensors_are_saved_where_no_program_may_change_a_files_mode(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    save_tensors({"A": torch.ones(2)}, tmp_path / "a.safetensors")
    assert load_tensors(tmp_path / "a.safetensors")["A"].tolist() == [1, 1]
