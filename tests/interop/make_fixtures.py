"""Writes tests/interop/fixtures with real torch; run by hand: python tests/interop/make_fixtures.py

Needs torch 2.13, numpy and safetensors. What torch itself reads back from each file, and what its
layers compute, goes to expected.npz: the reference of the tests, which run without torch.
"""

import argparse
import collections
import io
import pathlib
import zipfile

import numpy as np
import safetensors.torch
import torch

FOLDER = pathlib.Path(__file__).parent / "fixtures"
NUMPY_DTYPES = {"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64"}
NUMPY_DTYPES |= {"uint32", "uint16", "uint8", "bool", "complex64", "complex128"}


def reference(tensor: torch.Tensor) -> np.ndarray:
    """The values in numpy; those of types that plain numpy lacks are exact in float32."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if str(tensor.dtype).removeprefix("torch.") not in NUMPY_DTYPES:
        tensor = tensor.float()
    return tensor.contiguous().numpy()


def layouts() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    numbers = torch.complex(torch.arange(3.0), torch.ones(3))
    attributed = torch.nn.Parameter(torch.ones(2))
    attributed.note = "kept by torch, of no use here"
    tagged = torch.full((2,), 5.0)
    tagged.note = 1
    return {
        "base": base,
        "same": base,
        "row": base[2],
        "transposed": base.t(),
        "strided": base[1::2, ::3],
        "expanded": torch.tensor([7.0]).expand(3, 4),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 5),
        "conjugate": numbers.conj(),
        "negative": torch.arange(3.0)._neg_view(),
        "parameter": torch.nn.Parameter(torch.arange(2.0)),
        "attributed": attributed,
        "tagged": tagged,
    }


def dtypes() -> dict[str, torch.Tensor]:
    values = torch.tensor([0.0, 1.0, 2.0, 4.0])
    names = (*sorted(NUMPY_DTYPES), "bfloat16", "float8_e4m3fn", "float8_e5m2")
    return {name: values.to(getattr(torch, name)) for name in names}


def containers() -> dict:
    return {
        "nested": {"list": [torch.ones(1), {"x": torch.zeros(2)}], "pair": (torch.ones(3), 4)},
        "size": torch.Size([2, 3]),
        "dtype": torch.float32,
        "device": torch.device("cuda", 1),
        "scalar": np.float64(2.5),
        "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "counter": collections.Counter({3: 2}),
        "default": collections.defaultdict(list, {"a": 1}),
        "set": {1, 2},
        "frozenset": frozenset(["x"]),
        "bytes": b"raw",
        "bytearray": bytearray(b"more"),
        "complex": 1 + 2j,
        "none": None,
        "large": 2**80,
    }


class Layers(torch.nn.Module):
    """One of each layer that the mapping knows."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.up = torch.nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3) for _ in range(2)])
        self.final = torch.nn.LayerNorm(3)
        self.embed = torch.nn.Embedding(5, 3)

    def forward(self, images, ids):
        hidden = self.up(torch.relu(self.norm(self.conv(images)))).mean((2, 3))
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        return self.final(hidden) + self.embed(ids)


def training_checkpoint(model: Layers, inputs: tuple) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(*inputs).square().sum().backward()
    optimizer.step()
    weights = collections.OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items())
    arguments = argparse.Namespace(lr=0.1, betas=(0.9, 0.95), name="layers", resume=None)
    return {"model": weights, "optimizer": optimizer.state_dict(), "epoch": 3, "args": arguments}


def big_endian(source: pathlib.Path, target: pathlib.Path) -> None:
    """Rewrites an archive of float32 tensors as a big-endian machine would have written it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in info.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(info.filename, content)


def main() -> None:
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    expected: dict[str, np.ndarray] = {}

    def note(file: str, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            expected[f"{file}|{name}|{dtype}"] = reference(tensor)

    def save(file: str, content, **kwargs):
        torch.save(content, FOLDER / file, **kwargs)
        return torch.load(FOLDER / file, weights_only=False)

    note("layouts.pth", save("layouts.pth", layouts()))
    note("dtypes.pth", save("dtypes.pth", dtypes()))
    note("protocol4.pth", save("protocol4.pth", {"a": torch.arange(3)}, pickle_protocol=4))
    note("bare.pth", {"tensor": save("bare.pth", torch.arange(4.0).reshape(2, 2))})
    pair = {"a": torch.tensor([1.5, -2.0]), "b": torch.ones(2, 2)}
    old = {"model": pair, "args": argparse.Namespace(lr=0.1)}
    old = save("legacy.pth", old, _use_new_zipfile_serialization=False)
    note("legacy.pth", old["model"])
    nested = save("containers.pth", containers())["nested"]
    listed = {"nested.list.0": nested["list"][0], "nested.list.1.x": nested["list"][1]["x"]}
    note("containers.pth", listed | {"nested.pair.0": nested["pair"][0]})

    save("little.pth", pair)
    big_endian(FOLDER / "little.pth", FOLDER / "big_endian.pth")
    swapped = torch.load(FOLDER / "big_endian.pth", weights_only=True)
    assert all(torch.equal(swapped[name], pair[name]) for name in pair)
    note("big_endian.pth", swapped)
    (FOLDER / "little.pth").unlink()

    model, inputs = Layers(), (torch.randn(2, 2, 5, 5), torch.tensor([1, 4]))
    weights = save("training.pth", training_checkpoint(model, inputs))["model"]
    note("training.pth", {name.removeprefix("module."): v for name, v in weights.items()})
    expected["layers/images"], expected["layers/ids"] = (x.numpy() for x in inputs)
    expected["layers/output"] = reference(model.eval()(*inputs))

    scripted = torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1))
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    (FOLDER / "torchscript.pt").write_bytes(buffer.getvalue())

    tensors = {"half": torch.ones(3, dtype=torch.bfloat16), "scalar": torch.tensor(2.0)}
    tensors |= {"empty": torch.zeros(0, 3), "flags": torch.tensor([True, False])}
    safetensors.torch.save_file(tensors, FOLDER / "weights.safetensors", {"format": "pt"})
    note("weights.safetensors", tensors)
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
