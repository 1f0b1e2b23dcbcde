"""A pretended Apple GPU: `python tests/promises/fake_apple_gpu.py FOLDER` uses the project on it.

Its tensors say mps:0 and are kept in tensors on the CPU. As MPS does, it refuses float64, and operands on the CPU with
more than one value. A small C++ library registers the device with torch, which has no MPS in it except on a Mac.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # private; torch would load it in the midst of the pretending
import torch.utils.cpp_extension

# Private, as are `_make_wrapper_subclass` and `torch._C` below: torch intercepts operators under no public names.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps", 0)
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::MPS>;
C10_REGISTER_GUARD_IMPL(MPS, Guard)
}
"""
ran: set[str] = set()
"""Operators that ran on the device."""


def load_guard(folder: Path) -> None:
    (folder / "guard.cpp").write_text(GUARD, encoding="utf-8")
    includes = [f"-I{path}" for path in torch.utils.cpp_extension.include_paths()]
    libraries = [f for path in torch.utils.cpp_extension.library_paths() for f in (f"-L{path}", f"-Wl,-rpath,{path}")]
    compiler = ["g++", "-std=c++20", "-shared", "-fPIC", "-O0", *includes, "-o", "guard.so", "guard.cpp", *libraries]
    subprocess.run([*compiler, "-lc10"], cwd=folder, check=True)
    ctypes.CDLL(str(folder / "guard.so"), mode=ctypes.RTLD_GLOBAL)


class OnDevice(torch.Tensor):
    """A tensor on the device."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnDevice:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.on_cpu = inner
        return made  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.on_cpu!r})"

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return run(function, args, kwargs or {})


class Pretend(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends what has to do with the device there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "mps"


def inner(value: Any) -> Any:
    return value.on_cpu if isinstance(value, OnDevice) else value


def checked(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.dtype == torch.float64:
        raise TypeError(
            f"{name}: Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
        )
    return tensor


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, device = function.name(), kwargs.get("device")
    operands = tree_leaves((args, kwargs))
    on_device = [operand for operand in operands if isinstance(operand, OnDevice)]
    there = bool(on_device) or is_device(device)
    if not there:
        return function(*args, **kwargs)
    if name == "aten::_to_copy":
        copied = function(inner(args[0]), **{**kwargs, "device": "cpu"})
        back = device is not None and not is_device(device)
        return copied if back else OnDevice(checked(copied, name))
    if name == "aten::copy_":
        function(*map(inner, args[:2]))
        checked(inner(args[0]), name) if isinstance(args[0], OnDevice) else None
        return args[0]
    if name == "aten::_local_scalar_dense":
        return function(inner(args[0]))
    if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
        with Pretend():  # type: ignore[no-untyped-call]
            found = function.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
    mixed = [o for o in operands if isinstance(o, torch.Tensor) and not isinstance(o, OnDevice) and o.dim() > 0]
    if mixed:
        raise RuntimeError(f"{name}: operands on the CPU and on the device")
    ran.add(name)
    kwargs = {**tree_map(inner, kwargs), **({"device": "cpu"} if is_device(device) else {})}
    found = function(*tree_map(inner, args), **kwargs)
    same = {id(operand.on_cpu): operand for operand in on_device}

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return same[id(value)] if id(value) in same else OnDevice(checked(value, name))

    return tree_map(placed, found)


class NoGrad(torch.no_grad):
    """In place of inference mode, in which no tensor of a subclass can be made."""

    def __new__(cls, *_: Any) -> Any:
        return torch.no_grad()


def pretend() -> None:
    """Makes torch and Lightning take this machine for a Mac."""
    import lightning  # noqa: F401  before the pretending begins
    import torchvision  # noqa: F401

    tensor, save, namespace = torch.tensor, torch.save, vars(torch)

    def new_tensor(data: Any, *, dtype: Any = None, device: Any = None, **more: Any) -> torch.Tensor:
        made = tensor(data, dtype=dtype, device=None if is_device(device) else device, **more)
        return made.to(DEVICE) if is_device(device) else made

    namespace["tensor"] = new_tensor
    namespace["save"] = lambda obj, *args, **kw: save(tree_map(lambda t: inner(t), obj), *args, **kw)
    namespace["inference_mode"] = NoGrad
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.backends.mps.is_available = lambda: True  # type: ignore[assignment]
    platform.processor = lambda: "arm"


def main(folder: Path) -> None:
    load_guard(folder)
    pretend()
    from logreg_lightning.fit import main as fit
    from logreg_lightning.use import evaluate, export, predict

    data = ["--data.dataset=mnist"]
    with Pretend():  # type: ignore[no-untyped-call]
        fit([*data, "--max_epochs=1"])
        assert not ran, "auto takes the CPU on a Mac"
        fit([*data, "--max_epochs=2", "--accelerator=mps", "--model.schedule=constant"])
        fit(["--resume=last", "--max_epochs=3"])
        evaluate.main(["last", "--split=val", "--pictures=shown"])
        predict.main(["last", "picture.png", "--picture=seen.png"])
        export.main(["last", "model.onnx"])
        for name, device in (("cpu", "cpu"), ("gpu", "mps")):
            try:
                fit([*data, "--max_epochs=1", f"--accelerator={name}", "--precision=64-true"])
            except SystemExit as ended:
                assert device == "mps" and ended.code == 2
            else:
                assert device == "cpu"
    assert {"aten::addmm", "aten::_log_softmax", "aten::addmm_"} <= ran, ran


if __name__ == "__main__":
    main(Path(sys.argv[1]))
