"""Writing from a prime, and how much of what is written was copied."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.text.copied import longest_copy, memorised
from faultlight.text.saved import save_text_model
from faultlight.text.writing import PRIMES, choose, sample
from text_toys import model, same_for_all

CHANCES = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()


@pytest.mark.parametrize(("draw", "due"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.76, 2), (0.9, 3), (0.9999999, 3)])
def test_a_character_is_drawn_where_the_cumulated_probability_passes_the_number(draw: float, due: int) -> None:
    assert choose(CHANCES, draw, 1.0, 0) == due


def test_temperature_sharpens_and_top_k_cuts() -> None:
    assert choose(CHANCES, 0.99, 0.0, 0) == 0
    # At temperature ½ probabilities are squared: 16 : 4 : 1 : 1.
    assert [choose(CHANCES, draw, 0.5, 0) for draw in (16 / 22 - 0.01, 16 / 22 + 0.01)] == [0, 1]
    assert choose(CHANCES, 0.999, 1.0, 2) == 1
    assert choose(CHANCES, 0.66, 1.0, 2) == 0


def test_of_equals_no_more_than_k_are_drawn_from() -> None:
    # 1, 2 and 3 are alike; of them the alphabet has 1 first.
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0])
    assert {choose(logits, draw / 100, 1.0, 2) for draw in range(100)} == {0, 1}


def test_a_temperature_next_to_zero_takes_the_likeliest() -> None:
    for logits in ([1.0, 3.0, -2.0], [-3.0, -1.0, -2.0]):
        assert {choose(torch.tensor(logits), draw, 1e-320, 0) for draw in (0.0, 0.5, 0.999)} == {1}


def test_a_model_writes_by_its_chances() -> None:
    written = sample(same_for_all([0.7, 0.1, 0.1, 0.1]), "ab", 2000, temperature=1.0).text
    assert written.count("a") / 2000 == pytest.approx(0.7, abs=0.03)


def test_writing_is_a_function_of_the_seed_and_goes_on_from_the_prime() -> None:
    net = model()
    first, again, other = (sample(net, "abc", 30, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.text != other.text
    with torch.no_grad():
        logits = net(net.alphabet.encode("abc")[None])[0][0, -1]
    assert sample(net, "abc", 1, temperature=0).text == net.alphabet.characters[int(logits.argmax())]
    assert sample(net, "abc", 0).text == ""


def test_characters_that_the_model_does_not_know_are_skipped_and_said() -> None:
    found = sample(model(), "a2bXX", 3)
    assert (found.read, found.skipped) == ("ab", "2X")
    assert found.text == sample(model(), "ab", 3).text


def test_a_prime_with_nothing_to_read_is_refused() -> None:
    with pytest.raises(InputError, match="the prime is empty"):
        sample(model(), "")
    with pytest.raises(InputError, match="no character of the prime 'XYZ'"):
        sample(model(), "XYZ")
    with pytest.raises(InputError, match="temperature"):
        sample(model(), "a", temperature=float("nan"))


def test_the_seven_primes_are_written_on_from_in_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from faultlight.text.alphabet import PRINTABLE

    save_text_model(tmp_path, model(alphabet=PRINTABLE))
    assert main(["text", "sample", str(tmp_path), "--length", "5", "--json"]) == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert tuple(each["prime"] for each in samples) == PRIMES
    assert len(PRIMES) == 7
    assert all(len(each["text"]) == 5 for each in samples)
    assert main(["text", "sample", str(tmp_path), "--prime", ""]) == 2
    assert "the prime is empty" in capsys.readouterr().err


def test_a_model_of_a_run_that_a_nan_stopped_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_text_model(tmp_path, model("gru"))
    assert main(["text", "sample", str(tmp_path), "--prime", "ab", "--length", "3"]) == 0
    assert "NaN" not in capsys.readouterr().err
    record = tmp_path / "model.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"stopped_at": 1234}))
    assert main(["text", "sample", str(tmp_path), "--prime", "ab", "--length", "3"]) == 0
    assert f"The run {tmp_path} was stopped by a NaN: its weights are those of step 1,234" in capsys.readouterr().err


def test_the_longest_copy_of_a_few_words_is_the_one_found_by_eye() -> None:
    found = longest_copy("and to be, that was it", "to be or not to be, that is the question")
    assert (found.text, found.start, found.source) == (" to be, that ", 3, 12)
    assert longest_copy("xyz", "abc").text == ""
    assert longest_copy("", "abc").text == ""


def test_copies_are_those_that_trying_every_substring_finds() -> None:
    drawn = random.Random(0)
    for _ in range(30):
        text, written = ("".join(drawn.choices("abc", k=count)) for count in (60, 25))
        runs = {written[start:end] for end in range(1, 26) for start in range(end) if written[start:end] in text}
        found = longest_copy(written, text)
        assert len(found.text) == max(map(len, runs))
        assert text[found.source : found.source + len(found.text)] == found.text
        assert written[found.start : found.start + len(found.text)] == found.text


def test_shares_of_copied_n_grams() -> None:
    found = memorised("abcabx", "xxabcxx", "cab", orders=(2, 3, 4))
    # Of ab bc ca ab bx: ab, bc, ab.  Of abc bca cab abx: abc.
    assert found.shares == {2: pytest.approx(3 / 5), 3: pytest.approx(1 / 4), 4: 0.0}
    assert found.expected == {2: 0.5, 3: 0.0}
    assert (found.longest.text, found.expected_longest) == ("abc", 2)
