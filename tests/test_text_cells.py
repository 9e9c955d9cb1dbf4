"""Gates against PyTorch's own outputs, saturation by hand, features by hand, and cells that were made to be found."""

from __future__ import annotations

import pytest
import torch

from faultlight.errors import InputError
from faultlight.text.cells import find_cells
from faultlight.text.features import features
from faultlight.text.unroll import Gates, saturation, unroll
from text_toys import model


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_unrolled_gates_give_what_torch_gives(cell: str, layers: int) -> None:
    net = model(cell, layers)
    with torch.no_grad():
        for weights in net.recurrent.parameters():
            weights.mul_(4)  # so that gates are seen in their bent part too
    x = torch.arange(60) % 4
    gates = unroll(net, x)
    with torch.no_grad():
        outputs, after = net.recurrent(net.embedding(x[None]))
    last = after if isinstance(after, tuple) else (after, after)
    assert torch.allclose(gates.hidden[-1], outputs[0], atol=1e-5)
    assert torch.allclose(gates.hidden[:, -1], last[0][:, 0], atol=1e-5)
    assert torch.allclose(gates.memory[:, -1], last[1][:, 0], atol=1e-5)


def test_unrolling_goes_on_from_a_state() -> None:
    net = model("lstm")
    x = torch.arange(20) % 4
    whole = unroll(net, x)
    with torch.no_grad():
        _, state = net(x[None, :12])
    assert torch.allclose(unroll(net, x[12:], state).hidden, whole.hidden[:, 12:], atol=1e-6)


def test_an_lstm_cell_set_by_hand_remembers_for_ever() -> None:
    net = model("lstm", 1)
    with torch.no_grad():
        for weights in net.recurrent.parameters():
            weights.zero_()
        hidden = 7
        bias = net.recurrent.bias_ih_l0
        bias[:hidden], bias[hidden : 2 * hidden], bias[2 * hidden : 3 * hidden] = -40.0, 40.0, 3.0
    found = unroll(net, torch.zeros(9, dtype=torch.int64))
    assert found.gates["input"].max() < 1e-6
    assert found.gates["forget"].min() > 1 - 1e-6
    assert found.hidden.abs().max() < 1e-6
    share = saturation(found)
    assert share.left["input"].eq(1).all()
    assert share.right["forget"].eq(1).all()
    assert share.left["output"].eq(0).all() and share.right["output"].eq(0).all()  # σ(0) is a half  # noqa: PT018


def test_saturation_counts_the_share_of_time_below_a_tenth_and_above_nine_tenths() -> None:
    values = torch.tensor([0.05, 0.5, 0.95, 0.99, 0.1]).view(1, 5, 1)
    zero = torch.zeros(1, 5, 1)
    found = saturation(Gates({"update": values, "candidate": zero}, zero, zero))
    assert found.left["update"].item() == pytest.approx(0.2)
    assert found.right["update"].item() == pytest.approx(0.4)
    assert set(found.left) == {"update"}


def test_features_of_a_few_lines_are_those_counted_by_hand() -> None:
    text = "KING:\nO (my) 'no'.\n\nAy"
    found = {name: "".join(str(int(value)) for value in values) for name, values in features(text).items()}
    assert features(text)["position in the line"].tolist() == [1, 2, 3, 4, 5, 0, *range(1, 13), 0, 0, 1, 2]
    assert found["speaker's name"] == "11111" + "0" * 17
    assert found["word in capitals"] == "0111" + "0" * 18
    assert found["capital letter"] == "1111001" + "0" * 13 + "10"
    assert found["end of a line"] == "0000010" + "0" * 11 + "1100"
    assert found["inside parentheses"] == "0" * 8 + "111" + "0" * 11
    assert found["inside single quotation marks"] == "0" * 13 + "111" + "0" * 6
    assert found["punctuation"] == "00001" + "0" * 12 + "1" + "0" * 4


def test_an_apostrophe_opens_no_quotation_and_an_empty_line_ends_one() -> None:
    found = features("don't say \"it\n\nwe can't")
    assert not found["inside single quotation marks"].any()
    assert found["inside quotation marks"].tolist() == [0.0] * 10 + [1.0] * 4 + [0.0] * 9


def text_of_lines(lines: int = 60) -> str:
    """Lines of unlike lengths, a word in brackets here and there."""
    words = ["so ", "it (was) ", "Told to us; ", "and then, ", "no more. "]
    rows = ["".join(words[(row * row + turn) % 5] for turn in range(1 + row * 7 % 4)).strip() for row in range(lines)]
    return "\n".join(rows)


def test_cells_made_to_keep_track_are_found_and_confirmed() -> None:
    text = text_of_lines()
    known = features(text)
    states = torch.randn(2, len(text), 6, generator=torch.Generator().manual_seed(0))
    states[0, :, 3] = -known["position in the line"] / 30
    states[1, :, 4] = known["inside parentheses"]
    found = {each.feature: each for each in find_cells(states, text).findings}
    line, inside = found["position in the line"], found["inside parentheses"]
    assert (line.layer, line.cell, line.significant) == (0, 3, True)
    assert line.confirmed == pytest.approx(-1, abs=1e-6)
    assert (inside.layer, inside.cell) == (1, 4)
    assert inside.confirmed == pytest.approx(1, abs=1e-6)


def test_a_counter_is_looked_for_wherever_a_half_of_the_text_begins() -> None:
    """The 160th character of a long sentence has a place in it that comes up nowhere else."""
    text = "a" * 160 + " b" * 150 + ". so it is" * 40
    assert "position in the sentence" not in find_cells(torch.randn(1, len(text), 2), text).absent


def test_cells_that_know_nothing_are_not_believed_however_slow_they_are() -> None:
    text = text_of_lines(200)
    noise = torch.randn(1, len(text), 40, generator=torch.Generator().manual_seed(1))
    slow = noise.cumsum(1)
    slow = slow - torch.nn.functional.avg_pool1d(slow.transpose(1, 2), 301, 1, 150, count_include_pad=False).transpose(
        1, 2
    )
    found = find_cells(slow, text)
    assert sum(each.significant for each in found.findings) <= 1
    assert found.tests == 40 * len(found.findings)
    assert "digit" in found.absent


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(InputError, match="give at least 250"):
        find_cells(torch.zeros(1, 100, 3), "x" * 100)
