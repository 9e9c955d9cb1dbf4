"""Training a generator: resumption to the bit, the film, NaN, and images that cannot be learnt from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from faultlight import rng
from faultlight.cli import main
from faultlight.errors import InputError
from faultlight.gan import film, run
from faultlight.gan.nets import build_pair
from faultlight.gan.reals import place_reals
from faultlight.gan.recipe import load_gan_recipe, names
from faultlight.gan.run import train
from faultlight.gan.sample import between, draw, draw_at, latent_points
from faultlight.gan.saved import load_generator
from faultlight.gan.step import play
from faultlight.train import steps
from faultlight.train.state import CHECKPOINT
from gan_toys import images, recipe


@pytest.mark.parametrize("name", names())
def test_a_carried_recipe_is_named_after_its_file(name: str) -> None:
    assert load_gan_recipe(name).name == name


def test_the_founding_recipe_is_the_founding_system() -> None:
    found = load_gan_recipe("mnist-mlp")
    assert (found.net, found.latent, found.width, found.steps, found.leak) == ("mlp", 100, 128, 20_000, False)


def test_a_run_leaves_weights_record_and_film(run_folder: Path) -> None:
    result = train(recipe(ema=0.9), out=run_folder, images=images(), quiet=True)
    record = json.loads((run_folder / "records/training.json").read_text())
    assert [row["step"] for row in record["steps"]] == [3, 6]
    assert {"d_real", "d_fake", "generator_loss", "discriminator_loss"} < record["steps"][0].keys()
    assert record["steps"][0]["generator_gradient"] > 0
    assert record["frames"] == [0, 2, 6]
    frames = load_file(run_folder / film.ARRAYS)
    assert frames["6"].shape == (64, 1, 8, 8)
    with Image.open(run_folder / film.FILM_FILE) as moving:
        assert moving.n_frames == 3  # type: ignore[attr-defined]
    assert draw(result.generator(), 3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9, "net": "dcgan", "width": 2, "norm": "spectral", "schedule": {"name": "cosine"}}]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, changes: dict[str, Any]) -> None:
    asked = recipe(**changes)
    whole = train(asked, out=tmp_path / "whole", images=images(), quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "play", _fails_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(asked, out=tmp_path / "killed", images=images(), quiet=True)
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    resumed = train(asked, out=tmp_path / "killed", images=images(), resume=True, quiet=True)
    for key, value in whole.generator().state_dict().items():
        assert torch.equal(value, resumed.generator().state_dict()[key])
    assert (tmp_path / "whole/film.png").read_bytes() == (tmp_path / "killed/film.png").read_bytes()


def _fails_at(step: int) -> Any:
    import signal

    def pressed(asked: Any, reals: Any, state: Any) -> Any:
        if state.step == step:
            signal.raise_signal(signal.SIGINT)
        return play(asked, reals, state)

    return pressed


def test_a_loss_that_turns_nan_is_one_sentence_and_the_state_before_it_stays(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(asked: Any, reals: Any, state: Any) -> Any:
        seen = play(asked, reals, state)
        return seen | {"generator_loss": seen["generator_loss"] * float("nan")} if state.step == 4 else seen

    monkeypatch.setattr(run, "play", poisoned)
    with pytest.raises(InputError, match=r"NaN or infinite by step 6 of 6; lower optimiser.lr"):
        train(recipe(), out=run_folder, images=images(), quiet=True)
    assert (run_folder / CHECKPOINT).exists()
    monkeypatch.setattr(run, "play", play)
    train(recipe(), out=run_folder, images=images(), resume=True, quiet=True)
    assert load_generator(run_folder)


def test_what_was_kept_before_nan_still_draws(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(asked: Any, reals: Any, state: Any) -> Any:
        return {
            each: value * (float("nan") if state.step == 4 else 1) for each, value in play(asked, reals, state).items()
        }

    monkeypatch.setattr(steps, "_SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(run, "play", poisoned)
    asked = recipe(ema=0.9)
    with pytest.raises(InputError, match=r"by step 5 of 6; .* the weights of step 4, from before that, are in"):
        train(asked, out=run_folder, images=images(), quiet=True)
    assert draw(load_generator(run_folder), 3, 0).shape == (3, 1, 8, 8)


def test_the_learning_rate_of_both_networks_follows_the_schedule() -> None:
    """Linear over six steps: 1, 5/6, …, 1/6 of the largest."""
    asked = recipe(schedule={"name": "linear"}, optimiser={"lr": 0.006})
    state = run.start(asked, *build_pair(asked.design((1, 8, 8)), asked.seed))
    reals = place_reals(images(), 1, asked.batch, "cpu")
    for step in range(asked.steps):
        state.step = step
        play(asked, reals, state)
        rates = {group["lr"] for each in state.optimisers.values() for group in each.param_groups}
        assert list(rates) == [pytest.approx(0.001 * (6 - step))]


def test_the_kept_generator_is_the_average(run_folder: Path) -> None:
    """With decay (1 + t)/(10 + t) below the recipe's, w̄ follows by (1 − d)(w − w̄) a step."""
    asked = recipe(ema=0.9)
    state = run.start(asked, *build_pair(asked.design((1, 8, 8)), asked.seed))
    reals = place_reals(images(), 1, asked.batch, "cpu")
    due = next(state.modules["generator"].parameters()).detach().clone()
    torch.manual_seed(0)
    for step in range(3):
        play(asked, reals, state)
        decay = (1 + step) / (10 + step)
        due = decay * due + (1 - decay) * next(state.modules["generator"].parameters()).detach()
        state.step += 1
    assert torch.allclose(next(state.modules["average"].parameters()), due, atol=1e-6)


def test_an_epoch_shows_each_image_once() -> None:
    reals = place_reals(images(40), 1, 8, "cpu")
    shown = torch.cat([reals.batch(8, 3, step) for step in range(5)])
    assert len(torch.unique(shown.flatten(1), dim=0)) == 40
    assert not torch.equal(reals.batch(8, 3, 0), reals.batch(8, 3, 5))


def test_a_stack_lays_grey_images_over_one_another() -> None:
    toys = images(40)
    reals = place_reals(toys, 3, 8, "cpu")
    assert reals.shape == (3, 8, 8)
    stacks = reals.sample(50, 0)
    assert stacks.shape == (50, 3, 8, 8)
    known = {tuple(each.flatten().tolist()) for each in toys.x}
    picked = [tuple(each.flatten().tolist()) for each in stacks[:20].flatten(0, 1)]
    assert all(each in known for each in picked)
    assert any(len({picked[3 * i + c] for c in range(3)}) == 3 for i in range(20))


def test_samples_are_the_same_first_whatever_the_count() -> None:
    generator, _ = build_pair(recipe().design((1, 8, 8)), 0)
    assert torch.allclose(draw(generator, 3, 7), draw(generator, 5, 7)[:3], atol=1e-6)
    assert not torch.equal(draw(generator, 3, 7), draw(generator, 3, 8))
    assert generator.training  # as it was


def test_the_way_between_two_points_keeps_its_distance_from_the_origin() -> None:
    way = between(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), 3)
    assert torch.allclose(way[0], torch.tensor([1.0, 0.0]), atol=1e-6)
    assert torch.allclose(way[1], torch.tensor([1.5, 1.5]) / 2**0.5, atol=1e-6)
    assert torch.allclose(way[2], torch.tensor([0.0, 2.0]), atol=1e-6)
    straight = between(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]), 3)
    assert torch.allclose(straight[1], torch.tensor([2.0, 0.0]))


def test_frames_are_drawn_at_squares() -> None:
    assert film.frame_steps(100, 5) == (0, 6, 25, 56, 100)
    assert film.frame_steps(2, 24) == (0, 1, 2)


def test_a_frame_shows_the_same_points_each_time() -> None:
    generator, _ = build_pair(recipe().design((1, 8, 8)), 0)
    drawn = draw_at(generator, latent_points(64, 5, 9))
    assert torch.equal(film.frame(generator, 9), (drawn * 255).round().to(torch.uint8))


def test_a_grid_lays_images_row_by_row() -> None:
    bytes_ = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    picture = film.grid(bytes_, 2)
    assert picture.shape == (6, 6, 2)
    grey, opacity = picture[:, :, 0], picture[:, :, 1]
    assert (grey[:2, :2] == 0).all()
    assert (grey[:2, 4:] == 1).all()
    assert (grey[4:, :2] == 2).all()
    # What lies behind shows between the images, and where the last row has none.
    assert opacity.tolist() == [[255, 255, 0, 0, 255, 255]] * 2 + [[0] * 6] * 2 + [[255, 255, 0, 0, 0, 0]] * 2


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_and_a_film_are_seen_through_between_their_images(tmp_path: Path, channels: int) -> None:
    frames = {step: torch.full((film.COUNT, channels, 4, 4), step, dtype=torch.uint8) for step in (0, 7, 9)}
    film.write_film(tmp_path, frames)
    strip = Image.open(tmp_path / film.STRIP_FILE).convert("RGBA")
    assert strip.getpixel((4, 0))[3] == 0  # type: ignore[index]
    assert strip.getpixel((0, 6)) == (7, 7, 7, 255)
    with Image.open(tmp_path / film.FILM_FILE) as moving:
        assert moving.n_frames == 3  # type: ignore[attr-defined]
        moving.seek(2)
        last = moving.convert("RGBA")
        assert (last.getpixel((0, 0)), last.getpixel((4, 0))[3]) == ((9, 9, 9, 255), 0)  # type: ignore[index]


def test_a_picture_comes_back_from_its_file() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert (np.asarray(Image.open(io.BytesIO(film.png(picture)))) == picture[:, :, 0]).all()
    assert Image.open(io.BytesIO(film.png(picture, 3))).size == (12, 9)


def test_a_class_folder_with_one_image_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data/train/cat").mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "data/train/cat/one.png")
    code = main(["gan", "train", "mnist-mlp", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert "has 1 training image, and a generator learns from batches of 128" in said
    assert not (tmp_path / "run").exists()


def test_images_that_cannot_be_learnt_from_are_refused(run_folder: Path) -> None:
    with pytest.raises(InputError, match="'toy' has 1 training image, and a generator learns from batches of 8"):
        train(recipe(), out=run_folder, images=images(1), quiet=True)
    with pytest.raises(InputError, match="only grey images are stacked"):
        train(recipe(stack=3), out=run_folder, images=images(shape=(3, 8, 8)), quiet=True)
    with pytest.raises(InputError, match="6×6 does not divide by 4"):
        train(recipe(net="dcgan"), out=run_folder, images=images(shape=(1, 6, 6)), quiet=True)
    assert not run_folder.exists()


def test_the_command_trains_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    settings = ["--set", "width=4", "--set", "batch=16", "--set", "frames=2"]
    code = main(["gan", "train", "mnist-mlp", "--data", "digits", "--steps", "2", "--out", str(out), *settings])
    assert code == 0
    assert f"written to      {out}" in capsys.readouterr().out
    code = main(["gan", "train", "mnist-mlp", "--set", "widht=4"])
    assert code == 2
    assert "did you mean 'width'" in capsys.readouterr().err


def test_the_latent_points_are_standard_normal() -> None:
    z = latent_points(2000, 4, 0)
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1) < 0.03
    assert rng.key(0, "latent") != rng.key(1, "latent")
