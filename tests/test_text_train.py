"""Texts, the character model, its loss, and training that a kill does not change."""

from __future__ import annotations

import json
import math
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from faultlight.cli import main
from faultlight.data.text import Text, load_text
from faultlight.errors import InputError
from faultlight.text import shards
from faultlight.text.alphabet import PRINTABLE, Alphabet, alphabet_of
from faultlight.text.corpus import check_length, divide, load_corpus, random_chunks, stream_chunks
from faultlight.text.measure import bits, held_out_loss
from faultlight.text.model import build_model
from faultlight.text.recipe import load_text_recipe, names
from faultlight.text.run import train
from faultlight.text.saved import load_text_model
from faultlight.text.step import noisy
from faultlight.train import steps, steps_run
from faultlight.train.steps_recipe import kind_of
from text_toys import LETTERS, corpus, model, recipe, same_for_all


@pytest.mark.parametrize("name", names())
def test_a_carried_text_recipe_is_named_after_its_file_and_has_a_target(name: str) -> None:
    found = load_text_recipe(name)
    assert found.name == name
    assert found.target is not None
    assert kind_of(name) == "text"


def test_the_founding_recipe_has_141_300_parameters_over_100_characters() -> None:
    found = load_text_recipe("char-rnn")
    assert len(PRINTABLE) == 100
    built = build_model(PRINTABLE, found.shape)
    # Embedding, two layers of three gates with two biases each, decoder with one.
    assert built.parameter_count == 100 * 100 + 2 * 3 * (2 * 100 * 100 + 2 * 100) + 100 * 100 + 100 == 141_300
    assert (found.optimiser.name, found.optimiser.lr, found.chunk, found.batch) == ("adam", 0.01, 200, 100)


def test_the_last_part_of_a_text_is_held_out() -> None:
    found = divide(Text("t", "abcdabcdabcdabcdabcd", ""), LETTERS, 0.25)
    assert found.alphabet.decode(found.train) == "abcdabcdabcdabc"
    assert found.alphabet.decode(found.held_out) == "dabcd"
    assert "15 characters to learn from, the 5 that follow held out" in found.describe()


def test_tinyshakespeare_is_known_by_its_name(real_data: Path) -> None:
    found = load_corpus("tinyshakespeare", "printable")
    assert (len(found.train), len(found.held_out), len(found.used)) == (1_003_855, 111_539, 65)


def test_characters_and_numbers_are_each_others_inverse() -> None:
    alphabet = alphabet_of("hello")
    assert alphabet.characters == "ehlo"
    assert alphabet.decode(alphabet.encode("hole")) == "hole"
    assert alphabet.unknown("hexagon") == "xagn"
    assert alphabet.known("hexagon") == "heo"
    with pytest.raises(InputError, match=r"'x' \(U\+0078\)"):
        alphabet.encode("hex")
    with pytest.raises(InputError, match="'a' twice"):
        Alphabet("aba")


def test_random_chunks_are_pieces_of_the_text_and_a_function_of_the_step() -> None:
    numbers = torch.arange(50)
    first, again, other = (random_chunks(numbers, 6, 10, 0, step) for step in (3, 3, 4))
    assert first.shape == (6, 11)
    assert torch.equal(first, first[:, :1] + torch.arange(11))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert random_chunks(numbers, 1000, 10, 0, 0).max() == 49


def test_streams_go_on_where_they_stopped_and_never_meet() -> None:
    numbers = torch.arange(100)
    pieces = [stream_chunks(numbers, 2, 10, 0, step) for step in range(8)]
    begins = [begun for _, begun in pieces]
    assert begins == [True, False, False, False] * 2
    for (one, _), (two, begun) in pairwise(pieces):
        assert begun or torch.equal(one[:, -1], two[:, 0])
    for piece, _ in pieces:
        assert piece[0].max() < 50 <= piece[1].min()


def test_the_loss_of_a_model_that_always_says_the_same_is_the_cross_entropy_of_its_chances() -> None:
    chances = [0.5, 0.25, 0.125, 0.125]
    numbers = LETTERS.encode("dabcab")
    due = -sum(math.log(chances[number]) for number in numbers[1:]) / 5
    assert held_out_loss(same_for_all(chances), numbers) == pytest.approx(due, abs=1e-6)
    assert bits(math.log(8)) == pytest.approx(3)


def test_the_held_out_loss_does_not_depend_on_the_chunks_it_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(1100) % 4
    whole = held_out_loss(model(), numbers)
    monkeypatch.setattr("faultlight.text.measure._CHUNK", 7)
    assert held_out_loss(model(), numbers) == pytest.approx(whole, abs=1e-5)


def test_noise_draws_a_share_of_the_characters_anew_from_those_in_use() -> None:
    x = torch.zeros(200, 100, dtype=torch.int64)
    used = torch.tensor([1, 2, 5])
    changed = noisy(x, 0.1, used, 0, 0)
    assert set(changed.unique().tolist()) == {0, 1, 2, 5}
    assert (changed != 0).float().mean() == pytest.approx(0.1, abs=0.01)
    assert noisy(x, 0.0, used, 0, 0) is x


@pytest.mark.parametrize("pieces", ["random", "streams"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: str, cell: str
) -> None:
    asked = recipe(pieces=pieces, cell=cell, dropout=0.2, noise=0.1)
    whole = train(asked, out=tmp_path / "whole", corpus=corpus(), quiet=True)
    saved = steps.save
    seen: list[int] = []

    def killed(state: object, folder: Path) -> None:
        saved(state, folder)  # type: ignore[arg-type]
        seen.append(state.step)  # type: ignore[attr-defined]
        if len(seen) == 6:
            raise SystemExit  # nothing after the write is done, as when the process is killed

    monkeypatch.setattr(steps, "_SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(steps_run, "save", killed)
    with pytest.raises(SystemExit):
        train(asked, out=tmp_path / "killed", corpus=corpus(), quiet=True)
    assert seen == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(steps_run, "save", saved)
    resumed = train(asked, out=tmp_path / "killed", corpus=corpus(), quiet=True, resume=True)
    for one, other in zip(whole.model().parameters(), resumed.model().parameters(), strict=True):
        assert torch.equal(one, other)
    assert resumed.held_out_loss == whole.held_out_loss
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_run_shared_among_processes_resumes_to_the_same_bits(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_CHARACTERS", 0)
    monkeypatch.setattr(shards, "_ROWS", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked = recipe(cell=cell, layers=1, dropout=0.2, pieces="streams")
    assert shards.shares_of(asked, "cpu") == 2
    whole = train(asked, out=tmp_path / "whole", corpus=corpus(), quiet=True)
    saved, seen = steps.save, []

    def killed(state: object, folder: Path) -> None:
        saved(state, folder)  # type: ignore[arg-type]
        seen.append(folder)
        if len(seen) == 6:
            raise SystemExit

    monkeypatch.setattr(steps, "_SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(steps_run, "save", killed)
    with pytest.raises(SystemExit):
        train(asked, out=tmp_path / "killed", corpus=corpus(), quiet=True)
    monkeypatch.setattr(steps_run, "save", saved)
    resumed = train(asked, out=tmp_path / "killed", corpus=corpus(), quiet=True, resume=True)
    for one, other in zip(whole.model().parameters(), resumed.model().parameters(), strict=True):
        assert torch.equal(one, other)
    alone = recipe(cell=cell, layers=1, dropout=0.2, pieces="streams")
    monkeypatch.setattr(shards, "_CHARACTERS", 10**9)
    single = train(alone, out=tmp_path / "single", corpus=corpus(), quiet=True)
    assert single.held_out_loss == pytest.approx(whole.held_out_loss, abs=1e-4)


def test_a_run_leaves_its_records_and_a_model_that_loads(tmp_path: Path) -> None:
    found = train(recipe(steps=10, target={"metric": "held_out_loss", "at_most": 5.0}), out=tmp_path, corpus=corpus())
    record = json.loads((tmp_path / "records" / "training.json").read_text())
    assert [row["step"] for row in record["steps"]] == [4, 8, 10]
    assert set(record["steps"][0]) == {
        "step", "train_loss", "batch_loss", "held_out_loss", "held_out_bits", "lr", "seconds",
    }  # fmt: skip
    assert found.met is True
    assert found.held_out_bits == pytest.approx(found.held_out_loss / math.log(2))
    assert held_out_loss(load_text_model(tmp_path), corpus().held_out) == pytest.approx(found.held_out_loss, abs=1e-6)
    assert tomllib.loads((tmp_path / "run.toml").read_text())["recipe"]["kind"] == "text"
    assert (tmp_path / "stamp.json").is_file()
    with pytest.raises(InputError, match="already holds"):
        train(recipe(), out=tmp_path, corpus=corpus())


def test_the_loss_of_a_text_without_surprise_goes_down(tmp_path: Path) -> None:
    asked = recipe(steps=60, optimiser={"lr": 0.03}, layers=1, hidden=16)
    found = train(asked, out=tmp_path, corpus=divide(Text("t", "abcd" * 200, ""), LETTERS), quiet=True)
    assert found.held_out_loss < 0.1


def test_a_loss_that_becomes_nan_is_said_and_the_state_kept_last_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="became NaN or infinite by step"):
        train(recipe(optimiser={"name": "sgd", "lr": 1e38}, steps=30), out=tmp_path, corpus=corpus(), quiet=True)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.isfinite(each).all() for each in content["modules"]["model"].values())


def test_a_text_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "latin.txt"
    bad.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8: byte 0xe9 at position 3"):
        load_text(str(bad))
    with pytest.raises(InputError, match="there is no text named 'nowhere'"):
        load_text("nowhere")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="is empty"):
        load_text(str(tmp_path / "empty.txt"))
    with pytest.raises(InputError, match="holds only 'a', 6 times"):
        divide(Text("t", "aaaaaa", ""), LETTERS)
    with pytest.raises(InputError, match="too short"):
        check_length(corpus(1), 200)
    with pytest.raises(InputError, match="'é'"):
        divide(Text("t", "caf\xe9", ""), PRINTABLE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "hiden=3"], "did you mean 'hidden'?"),
        (["--set", "optimiser.rate=3"], "there is no key 'rate' in [optimiser]"),
        (["--set", "cell=rnn"], "'gru' or 'lstm'"),
        (["--steps", "0"], "steps"),
        (["--data", "nowhere.txt"], "there is no text named"),
        (["--device", "tpu"], "there is no device"),
    ],
)
def test_bad_input_on_the_command_line_is_answered_with_exit_code_2(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], real_data: Path
) -> None:
    assert main(["text", "train", "char-rnn", "--out", str(tmp_path / "run"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_short_text_and_an_unknown_recipe_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short.txt").write_text("to be or not to be")
    assert main(["text", "train", "char-rnn", "--data", str(tmp_path / "short.txt")]) == 2
    assert "too short" in capsys.readouterr().err
    assert main(["text", "train", "char-rn"]) == 2
    assert "did you mean 'char-rnn'?" in capsys.readouterr().err


def test_the_verb_train_takes_text_recipes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, recipe_file = tmp_path / "play.txt", tmp_path / "tiny.toml"
    text.write_text("to be or not to be, that is the question.\n" * 20)
    recipe_file.write_text(
        f'kind = "text"\nname = "tiny"\ntitle = "t"\ndata = "{text}"\nsteps = 3\nbatch = 2\nchunk = 5\nhidden = 4\n'
    )
    assert main(["train", str(recipe_file), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out_count"] == 84
    assert main(["train", str(recipe_file), "--epochs", "3"]) == 2
    assert "--epochs cannot be given" in capsys.readouterr().err


def test_a_folder_without_a_character_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.json"):
        load_text_model(tmp_path)
    (tmp_path / "model.json").write_text('{"schema": 1, "zoo": "mnist-cnn"}')
    with pytest.raises(InputError, match="holds no character model"):
        load_text_model(tmp_path)


def test_resuming_where_there_is_no_run_says_that_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        train(recipe(), out=tmp_path / "run", corpus=corpus(), resume=True)
    assert capsys.readouterr().err.count(f"{tmp_path / 'run'} holds no run to go on with; it begins anew") == 1
