"""Heads that tune within a whole network: what changes, when nothing does, and what it is good for."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_networks import halves, make_network
from torch import nn

import fewshot
from fewshot import FewShotClassifier, load_backbone
from fewshot.augment import load_policy
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError, MissingExtraError
from fewshot.finetune import lora as lora_module
from fewshot.finetune import tuning
from fewshot.finetune.base import TrainingSetup
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.full import FullFineTune, _stages
from fewshot.finetune.lora import LoRA
from fewshot.finetune.norm_tuning import NormTuning
from fewshot.finetune.selection import HeldOut, choose, compare, fit_scale, image_losses, make_folds, spread
from fewshot.heads.linear_probe import LinearProbe

HEADS = (NormTuning, LoRA, FullFineTune)
every_head = pytest.mark.parametrize("kind", [*HEADS, FineTune])
whole_networks = pytest.mark.parametrize("kind", HEADS)
NO_VIEWS = load_policy("none")


@pytest.fixture(scope="module")
def network():
    return make_network()


def fit(head, network, images, codes, policy=NO_VIEWS, n_views=1, seed=0):
    return head.fit_images(images, codes, TrainingSetup(network, policy, n_views, seed))


@pytest.mark.parametrize(
    ("kind", "rate"), [(NormTuning, 3e-2), (LoRA, 1e-2), (FullFineTune, 1e-2), (FineTune, 1e-2)], ids=str
)
def test_what_frozen_features_cannot_tell_apart_is_learned(kind, rate, network):
    images, codes = halves(16, 0)
    asked, truth = halves(40, 1)
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    frozen = fit(kind(learning_rates=()), network, images, codes).predict_proba_images(asked)
    head = fit(kind(learning_rates=(rate,), steps=40, batch_size=8), network, images, codes)
    tuned = head.predict_proba_images(asked)
    assert (frozen.argmax(axis=1) == truth).mean() < 0.8
    assert (tuned.argmax(axis=1) == truth).mean() > 0.9
    assert head.learning_rate_ == rate
    assert set(head.validation_) == {0.0, rate}
    assert head.validation_[rate] < head.validation_[0.0]
    assert "held-out images prefer" in head.note_
    assert [row["validation_loss"] for row in head.history_ if "loss" not in row] == [head.validation_[rate]]
    phases = [row["phase"] for row in head.history_ if "loss" in row]
    assert {phase: phases.count(phase) for phase in phases} == dict.fromkeys(
        [f"{rate:g}, half 1", f"{rate:g}, half 2", "final"], 40
    )
    for name, tensor in network.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def kinds_of_changed(head, network):
    """Name the types of the network's layers whose parameters or statistics differ from the pretrained ones."""
    fresh, modules = network.model.state_dict(), dict(network.model.named_modules())
    changed = {n for n, tensor in head.model_.body.state_dict().items() if not torch.equal(tensor, fresh[n])}
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert changed <= set(head._names)
    return {type(modules[name.rpartition(".")[0]]).__name__ for name in changed}, changed


@whole_networks
@pytest.mark.parametrize(("name", "options"), [("test_efficientnet", {}), ("test_vit", {"img_size": 32})])
def test_only_what_is_meant_changes(kind, name, options, monkeypatch):
    monkeypatch.setattr(tuning, "compare", lambda held_out: always(1e-2))
    network = make_network(name, **options)
    head = fit(kind(learning_rates=(1e-2,), steps=2, batch_size=4), network, *halves(4, 0))
    layers, changed = kinds_of_changed(head, network)
    if kind is NormTuning:
        assert layers == ({"LayerNorm"} if name == "test_vit" else {"BatchNormAct2d"})
    elif kind is LoRA:
        assert layers == ({"Linear"} if name == "test_vit" else {"Conv2d"})
        assert all(name.endswith("weight") for name in changed)
        # The change of each weight has the rank asked for, or less.
        fresh, own = dict(network.model.named_parameters()), dict(head.model_.body.named_parameters())
        assert all(torch.linalg.matrix_rank((own[n] - fresh[n]).flatten(1), rtol=1e-3) <= 4 for n in changed)
        assert name != "test_vit" or any("qkv" in name for name in changed)
    else:
        assert len(changed) > 0.9 * len(fresh_names(network))


def fresh_names(network):
    return list(dict(network.model.named_parameters()))


def always(rate):
    """Let a rate win whatever the images say."""
    from fewshot.finetune.selection import Verdict

    return Verdict(rate, {0.0: 1.0, rate: np.inf}, {0.0: 2.0, rate: 2.0})


@every_head
def test_progress_counts_the_steps_of_all_trainings(kind, network, monkeypatch):
    monkeypatch.setattr(tuning, "compare", lambda held_out: always(1e-2))
    monkeypatch.setattr(tuning, "_log_loss", lambda logits, codes, scale: 0.0)
    seen = []
    setup = TrainingSetup(network, NO_VIEWS, 1, 0, progress=lambda *told: seen.append(told))
    kind(learning_rates=(1e-2,), steps=2, batch_size=2).fit_images(*halves(4, 0), setup)
    # Two halves and, at last, everything, after the features of four images.
    assert seen == [(4, 4), *((done, 6) for done in range(1, 7))]


@every_head
def test_progress_comes_to_its_end_where_nothing_is_trained_at_last(kind, network, monkeypatch):
    monkeypatch.setattr(tuning, "compare", lambda held_out: always(0.0))
    seen = []
    setup = TrainingSetup(network, NO_VIEWS, 1, 0, progress=lambda *told: seen.append(told))
    kind(learning_rates=(1e-2,), steps=2, batch_size=2).fit_images(*halves(4, 0), setup)
    assert seen == [(4, 4), *((done, 6) for done in range(1, 5)), (6, 6)]


def test_a_classifier_tells_how_far_its_training_is(two_fruits):
    seen = []
    head = FineTune(learning_rates=(1e-5,), steps=2, batch_size=2)
    FewShotClassifier(head=head, n_views=1, cache=False).fit(two_fruits[0], progress=lambda *told: seen.append(told))
    n = len(two_fruits[0])
    # Each image and one view of it, then two halves and everything.
    assert (2 * n, 2 * n) in seen
    assert seen[-1] == (6, 6)


@every_head
def test_rate_0_answers_as_the_linear_probe(kind, network):
    images, codes = halves(8, 0)
    asked, _ = halves(6, 1)
    head = fit(kind(learning_rates=()), network, images, codes, load_policy("light"), 2, 7)
    assert head.learning_rate_ == 0
    views = fewshot.features.extract_views(network, images, augmentation="light", n_views=2, seed=7)
    probe = LinearProbe().fit(views.reshape(-1, network.n_features), np.repeat(codes, 3))
    logits = probe._scores(network.extract(asked)) * head.scale_
    np.testing.assert_allclose(head.predict_proba_images(asked), torch.softmax(logits, dim=1), atol=1e-5)


@every_head
def test_the_same_seed_gives_the_same_answers_and_leaves_random_numbers_alone(kind, network, monkeypatch):
    monkeypatch.setattr(tuning, "compare", lambda held_out: always(1e-2))
    images, codes = halves(4, 0)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, again, other = (
        fit(
            kind(learning_rates=(1e-2,), steps=2, batch_size=2), network, images, codes, load_policy("light"), seed=seed
        )
        for seed in (3, 3, 4)
    )
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(first.predict_proba_images(images), again.predict_proba_images(images))
    assert not np.array_equal(first.predict_proba_images(images), other.predict_proba_images(images))


@every_head
def test_what_was_saved_answers_the_same(kind, network, monkeypatch):
    monkeypatch.setattr(tuning, "compare", lambda held_out: always(1e-2))
    images, codes = halves(4, 0)
    head = fit(kind(learning_rates=(1e-2,), steps=2, batch_size=4), network, images, codes)
    stated = {name: (t.dtype, t.shape) for name, t in head.blank_tensors(2, network).items()}
    assert stated == {name: (t.dtype, t.shape) for name, t in head.tensors().items()}
    again = kind()
    again.restore_facts(head.facts())
    again.restore({name: tensor.clone() for name, tensor in head.tensors().items()}, head.classes_, network)
    np.testing.assert_allclose(again.predict_proba_images(images), head.predict_proba_images(images), atol=1e-6)


def test_a_model_that_lora_trained_is_loaded_without_peft(two_fruits, tmp_path):
    pair = two_fruits[0].subset([0, 4])
    head = LoRA(learning_rates=(1e-3,), steps=1, batch_size=2)
    classifier = FewShotClassifier(head=head, augmentation="light", n_views=1).fit(pair)
    classifier.save(tmp_path / "model")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(pair.sources[0])
    code = (
        "import sys; sys.modules['peft'] = None\nimport fewshot\n"
        f"print(*fewshot.load({str(tmp_path / 'model')!r}).predict_proba([{str(photo)!r}])[0])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    expected = classifier.predict_proba([photo])[0]
    np.testing.assert_allclose(np.array(done.stdout.split(), dtype=float), expected, atol=1e-6)


def test_without_peft_lora_says_what_to_install(network, monkeypatch):
    monkeypatch.setattr(lora_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewshot\[lora\]'"):
        fit(LoRA(), network, *halves(4, 0))
    with pytest.raises(MissingExtraError):
        LoRA().check_backbone(network)


class Bare(nn.Module):
    """A network without normalisation, linear maps or stages."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pretrained_cfg = {"input_size": (3, 32, 32), "interpolation": "bilinear", "crop_pct": 1.0}
        self.pretrained_cfg |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def forward(self, x):
        return self.conv(x).mean(dim=(2, 3))


@every_head
def test_backbones_without_what_is_trained_are_refused(kind):
    with pytest.raises(InvalidInputError, match="'linear-probe'"):
        kind().check_backbone(TimmNetwork("bare", Bare(), "cpu"))
    joined = load_backbone("efficientnet_lite0+efficientnet_lite2")
    with pytest.raises(InvalidInputError, match=r"trains one timm network.*'linear-probe'"):
        kind().check_backbone(joined)


@pytest.mark.parametrize(
    "head",
    [
        NormTuning(learning_rates=(0.0,)),
        NormTuning(steps=0),
        LoRA(rank=0),
        LoRA(batch_size=1.5),
        FullFineTune(decay=1.5),
        FullFineTune(C=-1),
        FineTune(n_stages=0),
    ],
    ids=repr,
)
def test_parameters_out_of_range_are_refused(head, network):
    with pytest.raises(InvalidInputError):
        fit(head, network, *halves(4, 0))


def test_rates_fall_from_the_last_stage_to_the_pixels(network):
    groups = FullFineTune(decay=0.5)._begin(network.model, 0)
    shares = [share for _, share in groups]
    assert shares == [0.5**power for power in range(len(groups) - 1, -1, -1)]
    stages = _stages(network.model)
    assert sorted(name for stage in stages for name in stage) == sorted(fresh_names(network))
    assert any("stem" in name for name in stages[0])
    assert {name.split(".")[0] for name in stages[-1]} >= {"conv_head"}


def test_lora_changes_a_layer_as_the_formula_says(network):
    import copy

    head = LoRA(rank=2)
    head._bind(network)
    adapted = copy.deepcopy(network.model)
    parameters = head._begin(adapted, 0)[0][0]
    assert sum(p.numel() for p in parameters) == sum(
        2 * (w.shape[0] + w.shape[1]) for n, w in network.model.named_parameters() if n in head._names
    )
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.1)
    x = torch.randn(2, 3, 32, 32)
    merged = head._finish(adapted)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), adapted(x), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(merged(x), network.model(x), rtol=1e-2)
    name = head._names[0].removesuffix(".weight")
    layer = adapted.get_submodule(name)
    change = layer.lora_B["default"].weight.flatten(1) @ layer.lora_A["default"].weight.flatten(1)
    before, after = (m.get_submodule(name).weight.flatten(1) for m in (network.model, merged))
    torch.testing.assert_close(after, before + change)


@pytest.mark.parametrize(("images", "views"), [([3, 2], 2), ([5, 7], 1), ([2, 4], 3)])
def test_folds_hold_every_image_out_once_with_all_its_views(images, views):
    codes = np.repeat(np.arange(len(images)), images).repeat(views)
    of_image = np.arange(sum(images)).repeat(views)
    folds = make_folds(codes, of_image, np.random.default_rng(0))
    for fold in (0, 1):
        assert set(codes[folds == fold]) == set(range(len(images)))
    assert set(of_image[folds == 0]).isdisjoint(of_image[folds == 1])


@every_head
def test_one_image_of_a_class_leaves_nothing_to_judge_training_by(kind, network):
    """Its views are told by whatever remembers it: they would speak for training where it does harm."""
    assert make_folds(np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2]), np.random.default_rng(0)) is None
    images, codes = halves(2, 0)
    head = fit(kind(), network, images, codes, load_policy("light"), 2)
    assert (head.learning_rate_, head.validation_, head.history_) == (0.0, {}, [])
    assert "no evidence" in head.note_


def held_out(logits, codes, images=None):
    codes = np.array(codes)
    return HeldOut(torch.tensor(logits).double(), codes, np.arange(len(codes)) if images is None else np.array(images))


def test_a_scale_is_bounded_however_well_classes_are_separated():
    right = held_out([[1.0, -1.0], [-1.0, 1.0]] * 3, [0, 1] * 3)
    scale = fit_scale(right)
    grid = np.exp2(np.linspace(-4, 3, 57))
    penalised = 6 * np.log1p(np.exp(-2 * grid)) + np.log2(grid / 2.4) ** 2 / 2
    assert scale == pytest.approx(grid[penalised.argmin()])
    # Coin tosses deserve no confidence.
    wrong = held_out([[1.0, -1.0]] * 40, [0, 1] * 20)
    assert fit_scale(wrong) < 0.5


def test_losses_are_of_images_not_of_views():
    losses = image_losses(held_out([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], [0, 0, 1], [5, 5, 9]), 1.0)
    expected = [(np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2, np.log1p(np.exp(2))]
    np.testing.assert_allclose(losses, expected)


def test_spread_is_the_root_mean_square_about_the_mean_of_classes():
    logits = torch.randn(5, 3, dtype=torch.float64) + 10
    centred = logits.numpy() - logits.numpy().mean(axis=1, keepdims=True)
    assert spread(logits) == pytest.approx(np.sqrt((centred**2).mean()))
    assert spread(torch.zeros(2, 2)) > 0


def test_a_rate_must_be_better_by_a_standard_error_and_by_something_that_matters():
    zero = np.ones(4)
    assert choose([zero, zero - [2.0, -1.0, 0.0, 0.0]]) == 0  # gain 0.25, error 0.63
    assert choose([zero, zero - [0.5, 0.4, 0.5, 0.4]]) == 1
    assert choose([zero, zero - 0.005]) == 0  # certain, and of no use
    assert choose([zero, zero]) == 0
    assert choose([zero, zero - 0.1, zero - 0.2]) == 2


def test_larger_logits_alone_win_nothing_and_divergence_loses():
    rng = np.random.default_rng(0)
    codes = np.arange(8) % 2
    logits = np.eye(2)[codes] + rng.normal(scale=0.3, size=(8, 2))
    verdict = compare({0.0: held_out(logits, codes), 1.0: held_out(logits * np.nan, codes)})
    assert verdict.rate == 0
    assert list(verdict.losses) == [0.0]
    better = compare({0.0: held_out(-logits, codes), 1.0: held_out(logits, codes)})
    assert better.rate == 1.0


def test_a_last_training_that_fails_leaves_the_linear_probe(network, monkeypatch):
    verdict = tuning.Verdict(1e-2, {0.0: 1.0, 1e-2: -1.0}, {0.0: 2.0, 1e-2: 2.0})
    monkeypatch.setattr(tuning, "compare", lambda held_out: verdict)
    head = fit(NormTuning(learning_rates=(1e-2,), steps=1, batch_size=2), network, *halves(4, 0))
    assert head.learning_rate_ == 0
    assert "did not succeed" in head.note_
    assert kinds_of_changed(head, network)[1] == set()
