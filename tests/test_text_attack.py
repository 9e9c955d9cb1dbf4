"""Edits against trying every edit, first-order effects against finite differences, and recovery by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.text import misspelling
from faultlight.text.attack import TextAttack, attack, gains, passage_losses, trace
from faultlight.text.edits import KINDS, Kind, Passages, edit
from faultlight.text.misspelling import misspell
from faultlight.text.model import CharModel
from faultlight.text.recovery import recovered_at, recoveries
from faultlight.text.run import train
from faultlight.views._result import ViewResult
from text_toys import corpus, model, recipe, same_for_all

USED = torch.arange(4)


def net(cell: str = "gru") -> CharModel:
    found = model(cell, 1, seed=3)
    with torch.no_grad():
        for weights in found.parameters():
            weights.mul_(3)
    return found


def rows(length: int = 9, count: int = 3) -> Passages:
    clean = torch.randint(4, (count, length + 1), generator=torch.Generator().manual_seed(1))
    return Passages(clean[:, :-1], clean[:, 1:], torch.ones(count, length, dtype=torch.bool))


def clean_of(passages: Passages) -> torch.Tensor:
    return torch.cat([passages.read, passages.due[:, -1:]], 1)


def test_edits_do_what_their_names_say() -> None:
    start = Passages(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[1, 2, 3, 0]]), torch.ones(1, 4, dtype=torch.bool))
    flipped = edit(start, torch.tensor([1 * 4 + 3]), "flip", USED)
    assert flipped.read.tolist() == [[0, 3, 2, 3]]
    assert flipped.free.tolist() == [[True, False, True, True]]
    swapped = edit(start, torch.tensor([2]), "swap", USED)
    assert swapped.read.tolist() == [[0, 1, 3, 2]]
    assert swapped.due.tolist() == start.due.tolist()
    gone = edit(start, torch.tensor([1]), "delete", USED)
    assert (gone.read.tolist(), gone.due.tolist()) == ([[0, 2, 3]], [[1, 3, 0]])
    more = edit(start, torch.tensor([1 * 4 + 3]), "insert", USED)
    assert (more.read.tolist(), more.due.tolist()) == ([[0, 1, 3, 2, 3]], [[1, 2, 2, 3, 0]])
    assert more.free.tolist() == [[True, False, False, True, True]]
    behind = edit(start, torch.tensor([3 * 4 + 0]), "insert", USED)
    assert (behind.read.tolist(), behind.due.tolist()) == ([[0, 1, 2, 3, 0]], [[1, 2, 3, 0, 0]])


def changes(found: CharModel, start: Passages, kind: Kind, moves: torch.Tensor) -> torch.Tensor:
    """By how much the sums of the losses really change."""
    after = edit(start, moves, kind, USED)
    sums = [passage_losses(found, each) * each.read.shape[1] for each in (after, start)]
    return sums[0] - sums[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_promise_is_exact_where_nothing_follows(kind: Kind, cell: str) -> None:
    found, start = net(cell), rows()
    last = {"flip": 8 * 4 + (int(start.read[0, 8]) + 1) % 4, "swap": 7, "delete": 8, "insert": 8 * 4 + 2}[kind]
    one = Passages(start.read[:1].clone(), start.due[:1], start.free[:1])
    one.read[0, 7] = (one.read[0, 8] + 1) % 4
    promised = gains(found, one, kind, USED)[:, last]
    assert torch.allclose(promised, changes(found, one, kind, torch.tensor([last])), atol=1e-5)


@pytest.mark.parametrize("kind", ["flip", "insert"])
def test_the_promise_is_exact_everywhere_for_a_model_that_forgets(kind: Kind) -> None:
    found, start = net("lstm"), rows()
    with torch.no_grad():
        found.recurrent.weight_hh_l0.zero_()
        found.recurrent.bias_ih_l0[7:14] = -60.0
    promised = gains(found, start, kind, USED)
    for move in range(0, 36, 5):
        real = changes(found, start, kind, torch.full((3,), move))
        allowed = promised[:, move].isfinite()
        assert torch.allclose(promised[allowed, move], real[allowed], atol=1e-5)


def test_the_slope_is_that_of_the_losses_that_follow() -> None:
    exact, start = net().double(), rows()
    path = trace(exact, start)
    direction = torch.randn(1, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def later(share: float) -> torch.Tensor:
        with torch.no_grad():
            logits, _ = exact(start.read[:, 4:], (path.states[0][:, :, 4] + share * direction,))
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), start.due[:, 4:], reduction="sum")

    slope = (later(1e-5) - later(-1e-5)) / 2e-5
    assert float(slope) == pytest.approx(float((path.slope[0][:, :, 3] * direction).sum()), abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_with_enough_candidates_one_edit_is_the_worst_there_is(kind: Kind) -> None:
    start = rows()
    found = attack(net(), clean_of(start), TextAttack(kind, 1, 1000), USED)
    for row in range(len(start.read)):
        one = Passages(start.read[row : row + 1], start.due[row : row + 1], start.free[row : row + 1])
        allowed = gains(net(), one, kind, USED)[0].isfinite().nonzero()[:, 0]
        tried = [passage_losses(net(), edit(one, move[None], kind, USED)) for move in allowed]
        assert found.losses[row, 1].item() == pytest.approx(float(torch.cat(tried).max()), abs=1e-6)


@pytest.mark.parametrize("guided", [True, False])
def test_edits_are_as_many_as_allowed_and_never_twice_at_a_place(guided: bool) -> None:
    clean = clean_of(rows(20))
    flipped = attack(net(), clean, TextAttack("flip", 4, 3, guided), USED).passages
    assert (flipped.read != clean[:, :-1]).sum(1).tolist() == [4, 4, 4]
    assert (~flipped.free).sum(1).tolist() == [4, 4, 4]
    swapped = attack(net(), clean, TextAttack("swap", 3, 3, guided), USED).passages
    assert swapped.read.sort(1).values.tolist() == clean[:, :-1].sort(1).values.tolist()
    assert (~swapped.free).sum(1).tolist() == [6, 6, 6]
    assert attack(net(), clean, TextAttack("delete", 4, 3, guided), USED).passages.read.shape == (3, 16)
    more = attack(net(), clean, TextAttack("insert", 4, 3, guided), USED).passages
    assert more.read.shape == (3, 24)
    assert (~more.free).sum(1).tolist() == [8, 8, 8]


@pytest.mark.parametrize("guided", [True, False])
def test_where_nothing_is_left_to_swap_a_passage_stays_as_it_is(guided: bool) -> None:
    clean = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 2]])
    # b and c, the middle pair, first: it leaves no two neighbours. Of the third row nothing but the last pair can move.
    start = Passages(clean[:, :-1], clean[:, 1:], torch.ones(3, 4, dtype=torch.bool))
    once = edit(start, torch.tensor([1, 1, 3]), "swap", USED)
    assert once.read.tolist() == [[0, 2, 1, 3], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert edit(once, torch.tensor([1, 0, 3]), "swap", USED).read.tolist() == once.read.tolist()
    found = attack(net(), clean, TextAttack("swap", 2, 3, guided), USED)
    assert found.passages.read[1:].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert found.losses[2, 2] == found.losses[2, 1]


def test_the_worst_insertions_into_what_is_never_read_stand_before_the_rarest_characters() -> None:
    chances = torch.tensor([0.4, 0.3, 0.2, 0.1])
    clean = torch.tensor([[0, 1, 3, 2, 0, 1, 0, 2, 1, 0]])
    found = attack(same_for_all(chances.tolist()), clean, TextAttack("insert", 3, 100), USED)
    # In turn the places before the one d and the two c: each adds −log of that chance, and one to what is read.
    plain = float(-chances[clean[0, 1:]].log().sum())
    added = [0.0, -math.log(0.1), -math.log(0.1 * 0.2), -math.log(0.1 * 0.2 * 0.2)]
    due = [(plain + each) / (9 + turn) for turn, each in enumerate(added)]
    assert found.losses[0].tolist() == pytest.approx(due, abs=1e-5)
    assert found.passages.due.tolist() == [[1, 3, 3, 2, 2, 0, 1, 0, 2, 2, 1, 0]]


@pytest.mark.parametrize("kind", ["flip", "insert"])
def test_guided_edits_harm_more_than_one_drawn_at_random(kind: Kind) -> None:
    clean = clean_of(rows(30, 16))
    guided = attack(net(), clean, TextAttack(kind, 5, 1), USED).losses[:, -1].mean()
    drawn = attack(net(), clean, TextAttack(kind, 5, 1, guided=False), USED).losses[:, -1].mean()
    assert guided > drawn + 0.1


def test_a_model_that_does_not_read_cannot_be_misled() -> None:
    found = attack(same_for_all([0.4, 0.3, 0.2, 0.1]), clean_of(rows()), TextAttack("flip", 3, 4), USED)
    assert torch.allclose(found.losses, found.losses[:, :1].expand(-1, 4), atol=1e-6)


def test_too_many_edits_and_too_few_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="take 4 at most"):
        attack(net(), clean_of(rows()), TextAttack("flip", 5), USED)
    with pytest.raises(InputError, match="candidates 1 or more, not 3, 0"):
        TextAttack("flip", 3, 0)


def test_passages_too_short_to_see_a_model_recover_are_refused() -> None:
    with pytest.raises(InputError, match=r"passages of 9 characters .* give 10 at least"):
        misspell({"toy": model()}, "abcd" * 100, length=9)


def test_recovery_is_where_the_excess_stays_small() -> None:
    assert recovered_at(torch.zeros(50), 0.05) == 0
    # A mean of ten that holds one value of 1 is 0.1: the last such window starts at 4.
    assert recovered_at(torch.eye(50)[4], 0.05) == 5
    assert recovered_at(torch.ones(50), 0.05) is None


def test_a_model_that_does_not_read_has_recovered_at_once() -> None:
    found = recoveries(
        same_for_all([0.4, 0.3, 0.2, 0.1]), corpus().held_out, ["ab", "d"], USED, length=30, context=10, passages=5
    )
    assert [(each.after_prime, each.after_flip) for each in found] == [(0, 0), (0, 0)]
    assert found[0].curve_flip.shape == (30,)


def test_the_worst_flip_changes_one_character_and_harms() -> None:
    found = recoveries(net(), corpus().held_out, ["abca"], USED, length=30, context=10, passages=5)[0]
    assert sum(one != other for one, other in zip(found.prime, found.flipped, strict=True)) == 1
    assert found.excess_flip > 0


def test_models_stand_in_one_table_with_the_same_passages() -> None:
    text = corpus().alphabet.decode(corpus().held_out) * 3
    found = misspell({"a": same_for_all([0.25] * 4), "b": net()}, text, 2, 3, 4, 12, primes=["ab", "cX"], quiet=True)
    assert found.facts["losses"]["a/flip/guided"] == [pytest.approx(1.3863, abs=1e-4)] * 3
    guided, single = (found.facts["losses"][f"b/delete/{way}"] for way in ("guided", "one random"))
    assert guided[0] == single[0]
    assert len(found.facts["recovery"]["b"]) == 2
    assert "after its worst flip" in found.text()


def test_as_many_passages_are_named_as_were_read() -> None:
    text = corpus().alphabet.decode(corpus().held_out) * 2
    found = misspell({"a": same_for_all([0.25] * 4)}, text, 1, 1, 1000, 12, primes=["ab"], quiet=True)
    # Behind 100 characters of context, and with 12 and the one that follows ahead, 127 of 240 places are left.
    assert found.facts["passages"] == 127
    assert found.words.startswith("127 passages of 12 characters")


def test_a_prime_that_cannot_be_read_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(misspelling, "attack", lambda *_given: pytest.fail("an attack was run"))
    text = corpus().alphabet.decode(corpus().held_out) * 3
    for prime in ("", "XYZ"):
        with pytest.raises(InputError, match="give at least one"):
            misspell({"a": net()}, text, 1, 1, 4, 12, primes=["ab", prime], quiet=True)


def run_of(folder: Path, text: str, held_out: float) -> Path:
    asked = recipe(data=text, held_out=held_out, steps=1)
    train(asked, out=folder, quiet=True)
    return folder


def test_only_what_every_run_held_out_is_misspelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,400 characters one run holds out 2,200, the other 880: the 1,320 between are what the other learnt."""
    content = "abcabdacbd\n" * 400
    (tmp_path / "text.txt").write_text(content, encoding="utf-8")
    runs = [run_of(tmp_path / name, str(tmp_path / "text.txt"), share) for name, share in (("half", 0.5), ("few", 0.2))]
    given: list[str] = []

    def seen(_models: object, text: str, *_rest: object, **_more: object) -> ViewResult:
        given.append(text)
        return ViewResult("misspelling", {}, "", ())

    monkeypatch.setattr(misspelling, "misspell", seen)
    monkeypatch.setattr(ViewResult, "save", lambda *_given: [])
    for order in (runs, runs[::-1]):
        assert main(["text", "attack", *map(str, order), "--out", str(tmp_path / "out")]) == 0
    assert given == [content[-880:]] * 2


def test_runs_on_different_texts_are_not_attacked_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "other"):
        (tmp_path / f"{name}.txt").write_text(f"{name} abcabd\n" * 100, encoding="utf-8")
        run_of(tmp_path / name, str(tmp_path / f"{name}.txt"), 0.2)
    assert main(["text", "attack", str(tmp_path / "one"), str(tmp_path / "other")]) == 2
    assert "so there is no text that both held out" in capsys.readouterr().err


def test_a_run_beside_itself_and_a_folder_that_is_no_text_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("abcabdacbd\n" * 100, encoding="utf-8")
    one = run_of(tmp_path / "one", str(tmp_path / "text.txt"), 0.2)
    assert main(["text", "attack", str(one), str(one)]) == 2
    assert "is given twice" in capsys.readouterr().err
    assert main(["text", "attack", str(one), str(tmp_path)]) == 2
    assert f"{tmp_path} holds no run of a text model" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("abcabdacbd\n" * 101, encoding="utf-8")
    assert main(["text", "copied", str(one)]) == 2
    assert "is not the one that" in (said := capsys.readouterr().err)
    assert "put it back, or train again" in said
