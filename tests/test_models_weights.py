"""Weights files: every whole one is read exactly, every other one is refused with its name and its cause."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import torch as safetensors
from torch import nn

from faultlight.errors import InputError
from faultlight.models._checkpoint import foreign_globals
from faultlight.models.subject import Normalised
from faultlight.models.weights import fit_weights, load_weights, read_weights


def net() -> nn.Module:
    parts = OrderedDict(conv=nn.Conv2d(1, 2, 3), bn=nn.BatchNorm2d(2), flatten=nn.Flatten(), fc=nn.Linear(72, 3))
    return nn.Sequential(parts)


def trained() -> nn.Module:
    module = net()
    with torch.no_grad():
        for number, value in enumerate(module.state_dict().values()):
            value.copy_(torch.arange(value.numel()).view(value.shape) + number)
    return module


def legacy(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def modern(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def safe(state: dict[str, torch.Tensor]) -> bytes:
    return safetensors.save(state)


FORMS: dict[str, Callable[..., bytes]] = {"net.safetensors": safe, "net.pt": modern, "net.pth": legacy}
forms = pytest.mark.parametrize("name", list(FORMS))


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_weights(net(), path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_same(module: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


@forms
def test_every_number_arrives(tmp_path: Path, name: str) -> None:
    module = net()
    load_weights(module, write(tmp_path, name, FORMS[name](trained().state_dict())))
    assert_same(module, trained())


@forms
def test_the_form_is_told_by_content(tmp_path: Path, name: str) -> None:
    module = net()
    load_weights(module, write(tmp_path, "weights.bin", FORMS[name](trained().state_dict())))
    assert_same(module, trained())


@pytest.mark.parametrize("form", [modern, legacy])
def test_weights_saved_on_a_gpu_arrive_on_the_cpu(
    tmp_path: Path, form: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    content = form(trained().state_dict())
    monkeypatch.undo()
    assert b"cuda:0" in content
    module = net()
    load_weights(module, write(tmp_path, "gpu.pt", content))
    assert_same(module, trained())


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net"])
def test_a_state_dict_inside_a_checkpoint_is_found(tmp_path: Path, nest: str) -> None:
    module = net()
    load_weights(module, write(tmp_path, "net.pt", modern({"epoch": 3, nest: trained().state_dict()})))
    assert_same(module, trained())


@forms
def test_prefixes_of_wrappers_are_dropped(tmp_path: Path, name: str) -> None:
    state = {f"module._orig_mod.{key}": value for key, value in trained().state_dict().items()}
    module = net()
    load_weights(module, write(tmp_path, name, FORMS[name](state)))
    assert_same(module, trained())


def test_a_normalised_model_takes_bare_or_wrapped_weights(tmp_path: Path) -> None:
    for source in (trained(), Normalised(trained(), (0.5,), (2.0,))):
        module = Normalised(net(), (0.1,), (1.0,))
        load_weights(module, write(tmp_path, "net.pt", modern(source.state_dict())))
        assert_same(module.model, trained())


def test_batch_norm_of_an_old_file_needs_no_counter(tmp_path: Path) -> None:
    state = {key: value for key, value in trained().state_dict().items() if not key.endswith("num_batches_tracked")}
    module = net()
    load_weights(module, write(tmp_path, "old.pt", modern(state)))
    assert torch.equal(module.bn.running_var, trained().bn.running_var)


@forms
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, name: str) -> None:
    content = FORMS[name](trained().state_dict())
    for length in (1, 7, 9, 40, len(content) // 3, len(content) // 2, len(content) - 30, len(content) - 1):
        message = refused(write(tmp_path, name, content[:length]))
        assert any(word in message for word in ("truncated", "damaged", "neither", "not one whole")), message
    assert "truncated" in refused(write(tmp_path, name, content[:-1]))


@forms
@pytest.mark.parametrize("extra", [b"x", b"\0" * 64, b"<html>"])
def test_trailing_bytes_are_refused(tmp_path: Path, name: str, extra: bytes) -> None:
    message = refused(write(tmp_path, name, FORMS[name](trained().state_dict()) + extra))
    assert f"{len(extra)} trailing bytes" in message or f"+{len(extra)} bytes at its end" in message


@forms
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    assert "is empty" in refused(write(tmp_path, name, b""))


@pytest.mark.parametrize("length", [2**63, 2**32, 100_000_001])
def test_a_huge_header_is_refused(tmp_path: Path, length: int) -> None:
    message = refused(write(tmp_path, "net.safetensors", struct.pack("<Q", length) + b'{"a":1}'))
    assert f"a header of {length} bytes, above the limit" in message


def test_a_header_beyond_the_file_is_refused(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "net.safetensors", struct.pack("<Q", 5000) + b'{"a":1}'))
    assert "15 bytes where its header alone claims 5000" in message


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b"not json",
        b'{"a": 1}',
        b'{"a": {"data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, -4]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b"[" * 50_000,
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    message = refused(write(tmp_path, "net.safetensors", struct.pack("<Q", len(header)) + header + b"\0" * 4))
    assert "fetch it again" in message


@forms
@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html>\n<html>", b"\xef\xbb\xbf\n  <html lang='en'>", b"<?xml version='1.0'?>"]
)
def test_a_web_page_saved_as_weights_is_refused(tmp_path: Path, name: str, page: bytes) -> None:
    assert "is an HTML page saved as weights" in refused(
        write(tmp_path, name, page + b"<body>Quota exceeded</body>" * 9)
    )


@forms
def test_a_pointer_saved_as_weights_is_refused(tmp_path: Path, name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    assert "git-LFS pointer" in refused(write(tmp_path, name, pointer))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "starts with b'GIF89a" in refused(write(tmp_path, "net.pt", b"GIF89a" + bytes(100)))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    assert "is not there" in refused(tmp_path / "none.pt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)


class Bomb:
    """Unpickling it makes a file: the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("form", [modern, legacy, pickle.dumps])
def test_pickle_code_is_listed_and_never_run(tmp_path: Path, form: Callable[..., bytes]) -> None:
    canary = tmp_path / "canary"
    message = refused(write(tmp_path, "net.pt", form({"fc.weight": Bomb(canary)})))
    assert "needs pickle code" in message
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "torch.save(model.state_dict()" in message
    assert not canary.exists()


def test_a_text_pickle_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    assert "neither safetensors nor" in refused(write(tmp_path, "net.pt", pickle.dumps(Bomb(canary), protocol=0)))
    assert not canary.exists()


def test_the_bomb_of_these_tests_goes_off(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()


@pytest.mark.parametrize("form", [modern, legacy])
def test_a_whole_module_lists_its_classes(tmp_path: Path, form: Callable[..., bytes]) -> None:
    message = refused(write(tmp_path, "net.pt", form(nn.Sequential(nn.Linear(2, 2)))))
    assert "torch.nn.modules.container.Sequential" in message
    assert "torch.nn.modules.linear.Linear" in message
    assert "OrderedDict" not in message


@pytest.mark.parametrize("form", [modern, legacy])
def test_plain_tensors_import_nothing_foreign(form: Callable[..., bytes]) -> None:
    assert foreign_globals(form(trained().state_dict())) == []


def test_globals_hidden_behind_the_memo_are_found() -> None:
    hidden = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x000h\x00h\x01\x93."  # both names fetched again by BINGET
    assert foreign_globals(hidden) == ["posix.system"]


def test_a_compiled_program_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("net/data.pkl", b"")
        file.writestr("net/constants.pkl", b"")
    assert "TorchScript program, which runs code" in refused(write(tmp_path, "net.pt", archive.getvalue()))


def test_an_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights.npy", b"")
    assert "torch.save did not write" in refused(write(tmp_path, "net.pt", archive.getvalue()))


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("net/data.pkl", bytes(1_000_000))
    assert "more than its own size" in refused(write(tmp_path, "net.pt", archive.getvalue()))


def changed(**leaves: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = dict(trained().state_dict())
    for leaf, value in leaves.items():
        key = leaf.replace("__", ".")
        state.pop(key, None)
        if value is not None:
            state[key] = value
    return state


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            changed(fc__weight=torch.ones(1000, 72)),
            "'fc.weight' has shape (1000, 72) where (3, 72) is due (0 keys missing, 0",
        ),
        (
            changed(conv__weight=None, fc__bias=None),
            "'conv.weight' of shape (2, 1, 3, 3) is missing (2 keys missing, 0",
        ),
        (changed(head=torch.ones(4)), "'head' of shape (4,) has no place in it (0 keys missing, 1 unexpected, 9 due)"),
        (
            changed(fc__bias=torch.ones(3, dtype=torch.int64)),
            "'fc.bias' has type torch.int64 where torch.float32 is due",
        ),
        (changed(fc__bias=torch.tensor([1, torch.nan, 2])), "1 of the 3 numbers of 'fc.bias' are NaN or infinite"),
        (changed(fc__bias=torch.tensor([torch.inf, torch.nan, 2])), "2 of the 3 numbers of 'fc.bias' are NaN"),
        (changed(fc__bias=torch.ones(3).to_sparse()), "'fc.bias' is sparse or quantised"),
    ],
)
def test_weights_that_do_not_fit_name_the_leaf(tmp_path: Path, state: dict[str, torch.Tensor], words: str) -> None:
    module = net()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    path = tmp_path / "net.pt"
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        load_weights(module, path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_shape_of_terabytes_is_refused_by_its_shape(tmp_path: Path) -> None:
    state = changed(fc__bias=torch.zeros(1).expand(10**13))
    assert "has shape (10000000000000,) where (3,) is due" in refused(write(tmp_path, "net.pt", modern(state)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors"),
        ({"lr": 0.1}, "holds a float under 'lr'"),
        ({3: torch.ones(1)}, "holds a Tensor under 3"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path, value: object, words: str) -> None:
    assert words in refused(write(tmp_path, "net.pt", modern(value)))


def test_random_damage_is_a_sentence_or_numbers_never_a_traceback(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, form in FORMS.items():
        whole = form(trained().state_dict())
        for _ in range(60):
            content = bytearray(whole)
            for place in torch.randint(len(whole), (4,), generator=generator).tolist():
                content[place] ^= 1 + int(torch.randint(255, (1,), generator=generator))
            path = write(tmp_path, name, bytes(content))
            try:
                fit_weights(net(), read_weights(path), path)
            except InputError as error:
                assert str(path) in str(error)  # noqa: PT017  # either outcome is right
