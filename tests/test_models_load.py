"""What the user may write as MODEL, and the sentence for everything else."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import torch as safetensors
from torch import nn

from faultlight.errors import InputError
from faultlight.models import zoo
from faultlight.models.load import NOTE_UNTRAINED, load_model
from faultlight.models.saved import RECORD, WEIGHTS, read_saved, save_model

X = torch.linspace(0, 1, 3 * 64).view(3, 1, 8, 8)
FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

ready = net().eval()

def takes(x):
    return net()

def raises():
    values = {}
    return values["missing"]

def quits():
    raise SystemExit(3)

def text():
    return "net"

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

number = 3
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    return path


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(*arguments, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_zoo_network_takes_the_shape_and_classes_of_the_data() -> None:
    subject = load_model("zoo:mnist-cnn", classes=3, shape=(1, 8, 8), seed=4)
    expected = zoo.build("mnist-cnn", 3, (1, 8, 8), seed=4).eval()
    assert subject.name == "mnist-cnn"
    assert torch.equal(subject(X), expected(X))


def test_a_zoo_network_alone_has_its_own_shape_and_says_that_it_was_never_trained() -> None:
    subject = load_model("zoo:digits-cnn")
    assert subject(X).shape == (3, 10)
    assert [note.check for note in subject.notes] == [NOTE_UNTRAINED]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_zoo_network_takes_weights(tmp_path: Path, kind: type) -> None:
    source = zoo.build("digits-cnn", 10, (1, 8, 8), seed=9).eval()
    (tmp_path / "net.safetensors").write_bytes(safetensors.save(source.state_dict()))
    subject = load_model("zoo:digits-cnn", weights=kind(tmp_path / "net.safetensors"))
    assert subject.notes == ()
    assert torch.equal(subject(X), source(X))


def test_a_factory_runs_only_under_trust(factory: Path, tmp_path: Path) -> None:
    factory.write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n{FACTORY}")
    for spec in (f"{factory}:net", "nets.inside:net"):
        message = refused(spec)
        assert "runs the code in it" in message
        assert "--trust" in message
    assert not (tmp_path / "canary").exists()
    assert load_model(f"{factory}:net", trust=True)(X).shape == (3, 10)
    assert (tmp_path / "canary").exists()


def test_a_factory_file_gives_its_model_or_its_instance(factory: Path) -> None:
    assert load_model(f"{factory}:net", trust=True).name == "nets.py:net"
    subject = load_model(f"{factory}:ready", trust=True)
    assert subject.classes == 10
    assert torch.equal(subject(X), subject.module(X))


def test_a_factory_takes_weights(factory: Path, tmp_path: Path) -> None:
    state = {"1.weight": torch.arange(640.0).view(10, 64), "1.bias": torch.arange(10.0)}
    torch.save(state, tmp_path / "net.pth")
    subject = load_model(f"{factory}:net", weights=tmp_path / "net.pth", trust=True)
    torch.testing.assert_close(subject(X), X.flatten(1) @ state["1.weight"].T + state["1.bias"])


def test_a_factory_imports_its_neighbours_and_leaves_the_path_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_nets.py").write_text(FACTORY)
    (tmp_path / "model.py").write_text("from neighbour_of_nets import net\n")
    before = list(sys.path)
    assert load_model(f"{tmp_path / 'model.py'}:net", trust=True).classes == 10
    assert sys.path == before


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    for width in (3, 4):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "model.py").write_text(
            f"from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, {width}))\n"
        )
        assert load_model(f"{folder / 'model.py'}:net", trust=True).classes == width


def test_a_package_gives_its_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_of_nets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inside.py").write_text(FACTORY)
    (package / "needy.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    assert load_model("package_of_nets.inside:net", trust=True).name == "package_of_nets.inside:net"
    assert "no Python package 'package_of_nets.outside'" in refused("package_of_nets.outside:net", trust=True)
    assert "No module named 'nothing_of_this_name' (line 1 of" in refused("package_of_nets.needy:net", trust=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nett", "there is no 'nett' in it; did you mean 'net'?"),
        ("raises", "KeyError: 'missing' (line 14 of"),
        ("takes", "missing 1 required positional argument"),
        ("quits", "SystemExit: 3"),
        ("text", "gives a str where a torch.nn.Module is due"),
        ("number", "gives a int where a torch.nn.Module is due"),
        ("lazy", "'1.weight' has no shape yet"),
    ],
)
def test_an_unfit_factory_is_told_in_a_sentence(factory: Path, name: str, words: str) -> None:
    assert words in refused(f"{factory}:{name}", trust=True)


def test_a_file_that_is_no_python_is_told_with_its_line(factory: Path) -> None:
    factory.write_text("def net(:\n")
    assert "SyntaxError" in refused(f"{factory}:net", trust=True)
    assert f"{factory.parent / 'none.py'} is not there" in refused(f"{factory.parent / 'none.py'}:net", trust=True)
    assert "no Python package 'no_such_package'" in refused("no_such_package:net", trust=True)


def exported(path: Path) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.export.save(torch.export.export(module, (X,), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    return module


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    return path, exported(path)


def test_an_exported_program_loads_under_trust_alone(program: tuple[Path, nn.Module]) -> None:
    path, module = program
    assert "runs the code in it" in refused(str(path), classes=10)
    subject = load_model(str(path), classes=10, trust=True)
    assert subject.notes == ()
    torch.testing.assert_close(subject(X[:2]), module(X[:2]))
    x = X.clone().requires_grad_(True)
    subject(x).sum().backward()
    assert float(x.grad.abs().sum()) > 0


def test_an_exported_program_is_neither_weights_nor_any_file(program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    assert "is an exported program, not weights" in refused("zoo:digits-cnn", weights=program[0])
    assert "say how many" in refused(str(program[0]), trust=True)
    (tmp_path / "net.pt2").write_text("no program")
    assert "could not be loaded" in refused(str(tmp_path / "net.pt2"), trust=True)
    assert "is not there" in refused(str(tmp_path / "none.pt2"), trust=True)


def test_a_trained_folder_is_read_back_exactly(tmp_path: Path) -> None:
    family = zoo.family("resnet18", classes=3, shape=(1, 8, 8), width=16)
    module = zoo.build_family(family, seed=5)
    module.bn1.running_mean += 1
    save_model(tmp_path, "resnet18", family, module)
    record = json.loads((tmp_path / RECORD).read_text())
    assert {key: record[key] for key in ("schema", "zoo", "classes", "shape")} == {
        "schema": 1,
        "zoo": "resnet18",
        "classes": 3,
        "shape": [1, 8, 8],
    }
    subject = load_model(str(tmp_path))
    assert (subject.name, subject.classes, subject.notes) == ("resnet18", 3, ())
    assert torch.equal(subject(X), module.eval()(X))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    save_model(tmp_path, "digits-cnn", zoo.family("digits-cnn"), zoo.build("digits-cnn", 10, (1, 8, 8)))
    return tmp_path


def test_a_trained_folder_whose_weights_changed_is_refused(trained: Path) -> None:
    content = bytearray((trained / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (trained / WEIGHTS).write_bytes(bytes(content))
    assert "is not what model.json was written with" in refused(str(trained))
    (trained / WEIGHTS).unlink()
    assert "SHA-256 no file" in refused(str(trained))


def test_a_trained_folder_for_other_classes_is_refused(trained: Path) -> None:
    assert "knows 10 classes where the data has 3" in refused(str(trained), classes=3)


def test_facts_that_do_not_concern_the_network_are_passed_over(trained: Path) -> None:
    record = json.loads((trained / RECORD).read_text())
    (trained / RECORD).write_text(json.dumps({**record, "recipe": "digits", "accuracy": 0.98}))
    assert read_saved(trained)[0] == "digits-cnn"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "has schema 2, and this version reads up to 1"),
        ({"schema": None}, "is no record of a model"),
        ({"zoo": 3}, "is no record of a model"),
        ({"zoo": "digit-cnn"}, "did you mean 'digits-cnn'"),
    ],
)
def test_a_wrong_record_is_refused(trained: Path, change: dict[str, object], words: str) -> None:
    record = json.loads((trained / RECORD).read_text())
    (trained / RECORD).write_text(json.dumps({**record, **change}))
    assert words in refused(str(trained))


@pytest.mark.parametrize(
    ("kind", "verb"), [("text", "text view"), ("gan", "gan page"), ("autoencoder", "autoencoder page")]
)
def test_a_folder_of_another_kind_is_named_with_the_verb_for_it(trained: Path, kind: str, verb: str) -> None:
    (trained / RECORD).write_text(json.dumps({"schema": 1, "kind": kind, "weights_sha256": "0" * 64}))
    assert f"{trained} holds no classifier; look into it with `faultlight {verb} {trained}`" in refused(str(trained))


def test_a_record_that_is_no_object_is_refused(trained: Path) -> None:
    (trained / RECORD).write_text("[1]")
    assert "is no record of a model" in refused(str(trained))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "holds no model.json" in refused(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("zoo:mnist_cnn", "did you mean 'mnist-cnn'"),
        ("mnist-cnn", "did you mean zoo:mnist-cnn?"),
        ("net.safetensors", "--weights net.safetensors"),
        ("net.py", "write net.py:factory"),
        ("whatever", "MODEL is zoo:NAME"),
        (":net", "MODEL is zoo:NAME"),
        ("net:", "MODEL is zoo:NAME"),
    ],
)
def test_what_is_no_model_is_told_in_a_sentence(spec: str, words: str) -> None:
    assert words in refused(spec, trust=True)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert "no device called 'gpu'" in refused("zoo:digits-cnn", device="gpu")
    if not torch.cuda.is_available():
        assert "PyTorch finds no GPU here" in refused("zoo:digits-cnn", device="cuda")
