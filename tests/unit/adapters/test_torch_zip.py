"""pytorch_model.bin read without torch: what torch wrote, and what strangers write."""

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vectoll.adapters.checkpoints import DType
from vectoll.adapters.checkpoints.torch_zip import open_torch_zip
from vectoll.domain.errors import ConfigurationError


def saved(path: Path, state: Any, **how: Any) -> Path:
    torch.save(state, path / "pytorch_model.bin", **how)
    return path / "pytorch_model.bin"


def test_every_tensor_is_what_torch_wrote(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = torch.randn(6, 4)
    state = collections.OrderedDict(
        f32=torch.randn(3, 5),
        f16=torch.randn(7).half(),
        bf16=torch.randn(2, 2, 2).bfloat16(),
        part=whole[2:4],
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    weights = open_torch_zip(saved(tmp_path, state))
    assert set(weights) == set(state)
    for name, tensor in state.items():
        view = weights[name]
        assert view.shape == tuple(tensor.shape)
        assert (
            bytes(view.data) == tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
            if (tensor.dim())
            else struct.pack("<f", 3.5)
        )
    assert [weights[n].dtype for n in ("f32", "f16", "bf16")] == [DType.F32, DType.F16, DType.BF16]


def test_a_models_state_with_buffers_of_integers_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    module.register_buffer("position_ids", torch.arange(9))
    weights = open_torch_zip(saved(tmp_path, module.state_dict()))
    ours = np.frombuffer(weights["0.weight"].data, "<f4").reshape(3, 4)
    np.testing.assert_array_equal(ours, module[0].weight.detach().numpy())
    with pytest.raises(ConfigurationError, match="position_ids is I64"):
        weights["position_ids"]


class Exploit:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/vectoll-was-here",)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"x": Exploit()}, r"it asks for posix\.mkdir"),
        ([torch.ones(2)], "no dictionary"),
        ({}, "no dictionary"),
        ({"a": torch.ones(2), "b": 3}, "not only tensors"),
        ({"a": {"b": torch.ones(2)}}, "not only tensors"),
        ({1: torch.ones(2)}, "not only tensors"),
        ({"a": torch.ones(3, 4).T}, "not contiguous"),
        ({"a": torch.ones(1).expand(9)}, "not contiguous"),
        ({"a": torch.nn.Linear(2, 2)}, "it asks for torch.nn"),
        ({"a": torch.ones(2).to_sparse()}, "it asks for"),
    ],
)
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, state: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_torch_zip(saved(tmp_path, state))
    assert not Path("/tmp/vectoll-was-here").exists()


def test_the_format_before_1_6_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(ConfigurationError, match="not a torch archive"):
        open_torch_zip(path)


PICKLER: Any = vars(pickle)["_Pickler"]  # the one in Python, which can be made to write anything


def archive(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path / "x.bin", "w", compression) as file:
        file.writestr("a/data.pkl", program)
        for name, raw in members.items():
            file.writestr(f"a/{name.replace('__', '/')}", raw)
    return path / "x.bin"


def program(
    *, dtype: str = "FloatStorage", count: Any = 4, offset: Any = 0, shape: Any = (4,), stride: Any = (1,)
) -> bytes:
    """A pickle of one tensor, with any lie in it."""
    out = io.BytesIO()

    class Storage:
        pass

    class Named:
        def __init__(self, module: str, name: str) -> None:
            self.module, self.name = module, name

    class Tensor:
        pass

    class Writer(PICKLER):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", Named("torch", dtype), "0", "cpu", count) if isinstance(obj, Storage) else None

        def save(self, obj: Any, save_persistent_id: bool = True) -> None:
            if isinstance(obj, Named):
                self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
            elif isinstance(obj, Tensor):
                arguments = (Storage(), offset, shape, stride, False, None)
                self.save(Named("torch._utils", "_rebuild_tensor_v2"))
                self.save(arguments)
                self.write(b"R")
            else:
                super().save(obj, save_persistent_id)

    Writer(out, 2).dump({"t": Tensor()})
    return out.getvalue()


def test_the_forged_archive_is_one_that_is_read(tmp_path: Path) -> None:
    weights = open_torch_zip(archive(tmp_path, program(), data__0=np.arange(4, dtype="<f4").tobytes()))
    assert np.frombuffer(weights["t"].data, "<f4").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "lie",
    [
        {"count": 5},
        {"count": -1},
        {"count": 2**70},
        {"dtype": "QInt8Storage"},
        {"offset": 1},
        {"offset": -4},
        {"shape": (2**62, 4), "stride": (4, 1)},
        {"shape": (-4,)},
        {"shape": 4},
        {"shape": (4,), "stride": (0,)},
        {"shape": (2, 2), "stride": (1, 2)},
        {"shape": (1,) * 9, "stride": (1,) * 9},
        {"shape": ("4",)},
    ],
)
def test_a_lie_about_a_tensor_is_refused(tmp_path: Path, lie: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="not a torch archive"):
        open_torch_zip(archive(tmp_path, program(**lie), data__0=bytes(16)))


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02}q\x00",
        pickle.dumps([[]])[:-3],
        b"(" * 100_000,
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02ccollections\nOrderedDict\n}b.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00selfK\x01sb.",
        b"\x80\x02" + b"]" * 50 + b"e" * 50 + b".",
    ],
)
def test_a_program_that_is_rubbish_is_refused(tmp_path: Path, rubbish: bytes) -> None:
    with pytest.raises(ConfigurationError):
        open_torch_zip(archive(tmp_path, rubbish))


def test_what_a_program_does_to_what_it_may_name_ends_with_it(tmp_path: Path) -> None:
    """BUILD sets attributes on whatever lies on the stack: here a default in place of a function's argument."""
    sets = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b."
    with pytest.raises(ConfigurationError, match="no dictionary"):
        open_torch_zip(archive(tmp_path, sets))
    weights = open_torch_zip(saved(tmp_path, collections.OrderedDict(a=torch.ones(2))))
    assert list(weights) == ["a"]


NESTED = b"\x80\x02)" + b"q\x00h\x00\x86" * 60
"""A tuple of a tuple twice, sixty deep: 182 bytes, whose text or hash has 2^60 parts."""


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".",
        NESTED + b"q\x00}h\x00Ns.",
        NESTED + b"q\x00(X\x07\x00\x00\x00storageh\x00X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        NESTED + b"q\x00(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh\x00X\x03\x00\x00\x00cpuK\x01tQ.",
        b"\x80\x04" + NESTED[2:] + b"h\x00\x93.",
        NESTED + b"q\x00ccollections\nOrderedDict\n(h\x00N\x86\x85tR.",
    ],
)
def test_a_short_program_neither_fills_the_memory_nor_runs_for_ever(tmp_path: Path, bomb: bytes) -> None:
    with pytest.raises(ConfigurationError):
        open_torch_zip(archive(tmp_path, bomb))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_protocol_that_torch_can_be_told_to_write_is_read(tmp_path: Path, protocol: int) -> None:
    state = collections.OrderedDict((f"layer.{i}", torch.full((2,), float(i))) for i in range(300))
    weights = open_torch_zip(saved(tmp_path, state, pickle_protocol=protocol))
    assert [bytes(weights[f"layer.{i}"].data) for i in range(300)] == [
        struct.pack("<2f", i, i) for i in range(300)
    ]


def test_other_archives_are_refused(tmp_path: Path) -> None:
    for path in (
        archive(tmp_path, program(), zipfile.ZIP_DEFLATED, data__0=bytes(16)),
        archive(tmp_path, program()),
        archive(tmp_path, program(), data__0=bytes(16), byteorder=b"big"),
    ):
        with pytest.raises(ConfigurationError, match="not a torch archive"):
            open_torch_zip(path)
    good = archive(tmp_path, program(), data__0=bytes(16)).read_bytes()
    for cut in (10, 60, len(good) // 2, len(good) - 5):
        (tmp_path / "cut.bin").write_bytes(good[:cut])
        with pytest.raises(ConfigurationError):
            open_torch_zip(tmp_path / "cut.bin")
    with pytest.raises(ConfigurationError, match="cannot read the weights"):
        open_torch_zip(tmp_path / "missing.bin")
