"""Heads that train networks: the baseline is the usual one, fine-tuning starts at the probe and 0 competes."""

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot import FewShotClassifier, load_backbone, read_image
from fewshot.augment import load_policy
from fewshot.errors import InvalidInputError
from fewshot.features import extract_views
from fewshot.finetune.base import TrainingSetup
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.simple_cnn import SimpleCNN, SimpleCNNHead, TunedSimpleCNNHead
from fewshot.finetune.split import SplitNetwork
from fewshot.finetune.trainer import balanced_batches, train, warm_up_and_decay
from fewshot.heads.linear_probe import LinearProbe

SETUP = TrainingSetup(None, load_policy("heavy"), 2, 0)


def fit(head, dataset, setup):
    return head.fit_images(dataset.sources, np.array(dataset.labels), setup)


def usual_answer(images, labels, seed, n_classes):
    """Write the well-known answer as people write it: Dataset, DataLoader(batch_size=2, shuffle), five epochs."""
    x = torch.stack(
        [
            torch.from_numpy(np.array(Image.fromarray(read_image(i)).resize((256, 256), Image.BILINEAR))) / 255.0
            for i in images
        ]
    ).permute(0, 3, 1, 2)
    model = SimpleCNN(n_classes, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses, rng = [], np.random.default_rng([seed, 0])
    for _ in range(5):
        order, epoch = rng.permutation(len(x)), []
        for start in range(0, len(x), 2):
            chosen = order[start : start + 2]
            loss = torch.nn.functional.cross_entropy(model(x[chosen]), torch.tensor(labels)[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(np.mean(epoch))
    return model, losses, x


def test_simple_cnn_is_the_usual_answer(two_fruits):
    train_set = two_fruits[0].subset([0, 1, 4])
    head = fit(SimpleCNNHead(), train_set, SETUP)
    model, losses, x = usual_answer(train_set.sources, train_set.targets, 0, 2)
    np.testing.assert_allclose([row["loss"] for row in head.history_], losses, rtol=1e-3)
    assert [row["epoch"] for row in head.history_] == [1, 2, 3, 4, 5]
    with torch.no_grad():
        expected = torch.softmax(model(x), dim=1)
    np.testing.assert_allclose(head.predict_proba_images(train_set.sources), expected, atol=1e-3)


def test_simple_cnn_has_the_usual_layers_and_torchs_own_initial_weights():
    model = SimpleCNN(3, seed=4)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (16, 3, 3, 3),
        "conv2.weight": (32, 16, 3, 3),
        "fc.weight": (3, 32 * 64 * 64),
    }
    torch.manual_seed(4)
    torch.testing.assert_close(model.conv1.weight, torch.nn.Conv2d(3, 16, 3, padding=1).weight)


@pytest.mark.parametrize("head", [SimpleCNNHead(), TunedSimpleCNNHead(min_steps=3)], ids=["simple", "tuned"])
def test_from_scratch_heads_repeat_with_the_seed_and_leave_random_numbers_alone(head, two_fruits):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = fit(head, two_fruits[0], SETUP).predict_proba_images(two_fruits[1].sources)
    torch.testing.assert_close(torch.rand(3), expected)
    again = fit(head, two_fruits[0], SETUP).predict_proba_images(two_fruits[1].sources)
    other = fit(head, two_fruits[0], TrainingSetup(None, SETUP.policy, 2, 1)).predict_proba_images(
        two_fruits[1].sources
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(first.sum(axis=1), 1)


def test_the_tuned_recipe_learns_its_images(two_fruits):
    pair = two_fruits[0].subset([0, 4])
    head = fit(TunedSimpleCNNHead(min_steps=40), pair, SETUP)
    assert head.predict_proba_images(pair.sources).argmax(axis=1).tolist() == [0, 1]
    losses = [row["loss"] for row in head.history_]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_balanced_batches_are_full_fair_and_repeat_nothing_early():
    codes = np.array([0] * 5 + [1])
    order = np.stack(list(balanced_batches(codes, batch_size=4, steps=10, rng=np.random.default_rng(0))))
    assert order.shape == (10, 4)
    assert (codes[order].sum(axis=1) == 2).all()
    firsts = order[codes[order] == 0]
    for start in range(0, 20, 5):
        assert sorted(firsts[start : start + 5]) == [0, 1, 2, 3, 4]


def test_train_is_gradient_descent():
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    seen = []
    train(model, [batch], torch.optim.SGD(model.parameters(), lr=1.0), on_step=lambda *row: seen.append(row))
    # At zero weights the gradient of the first row is (1/2 - 1) x and of the second 1/2 x.
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.5, 0.0], [-0.5, 0.0]]))
    assert seen == [(1, pytest.approx(np.log(2)))]


@pytest.mark.parametrize(
    "name",
    ["test_efficientnet", "resnet18", "mobilenetv3_small_050", "test_convnext", "test_vit", "regnetx_002", "test_swin"],
)
@pytest.mark.parametrize("n_stages", [1, 2])
def test_a_split_network_computes_what_the_whole_does(name, n_stages):
    import timm

    from fewshot.backbones.timm import TimmNetwork

    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    torch.manual_seed(0)
    network = TimmNetwork(name, timm.create_model(name, pretrained=False, num_classes=0), "cpu")
    split = SplitNetwork(network, n_stages)
    pixels = np.random.default_rng(0).integers(0, 255, (2, network.image_size, network.image_size, 3), dtype=np.uint8)
    tail = split.new_tail()
    with torch.no_grad():
        features = tail(torch.from_numpy(split.trunk(pixels)))
    np.testing.assert_allclose(features.numpy(), network.forward(pixels), rtol=1e-3, atol=1e-3)
    trained = sum(p.numel() for p in tail.parameters())
    assert 0 < trained < sum(p.numel() for p in network.model.parameters())
    assert all(p.requires_grad for p in tail.parameters())
    assert not any(p.requires_grad for p in network.model.parameters())


def test_an_unknown_family_is_refused_with_alternatives():
    import timm

    from fewshot.backbones.timm import TimmNetwork

    network = TimmNetwork("densenet121", timm.create_model("densenet121", pretrained=False, num_classes=0), "cpu")
    with pytest.raises(InvalidInputError, match="linear-probe"):
        SplitNetwork(network)


def test_untuned_fine_tune_is_the_linear_probe(backbone, two_fruits):
    train_set, test_set = two_fruits
    setup = TrainingSetup(backbone, load_policy("light"), 3, 7)
    head = fit(FineTune(learning_rates=()), train_set, setup)
    views = extract_views(backbone, train_set.sources, augmentation="light", n_views=3, seed=7)
    probe = LinearProbe().fit(views.reshape(-1, 1280), np.repeat(train_set.labels, 4))
    expected = torch.softmax(probe._scores(backbone.extract(test_set.sources)) * head.scale_, dim=1)
    np.testing.assert_allclose(head.predict_proba_images(test_set.sources), expected, atol=1e-4)
    assert head.learning_rate_ == 0


def test_fine_tune_lets_zero_compete_keeps_curves_and_repeats(backbone, two_fruits):
    train_set, test_set = two_fruits
    before = {name: tensor.clone() for name, tensor in backbone.networks[0].model.state_dict().items()}
    setup = TrainingSetup(backbone, load_policy("heavy"), 2, 0)
    head = fit(FineTune(steps=4, batch_size=4, learning_rates=(1e-4, 1e-3)), train_set, setup)
    assert set(head.validation_) == {0.0, 1e-4, 1e-3}
    assert head.learning_rate_ in head.validation_
    phases = [row["phase"] for row in head.history_ if "loss" in row]
    tried = [f"{rate}, half {fold}" for rate in ("0.0001", "0.001") for fold in (1, 2)]
    assert {phase: phases.count(phase) for phase in tried} == dict.fromkeys(tried, 4)
    again = fit(FineTune(steps=4, batch_size=4, learning_rates=(1e-4, 1e-3)), train_set, setup)
    np.testing.assert_array_equal(
        head.predict_proba_images(test_set.sources), again.predict_proba_images(test_set.sources)
    )
    for name, tensor in backbone.networks[0].model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("n_stages", [1, 2])
def test_tuning_changes_the_last_stages_and_frozen_statistics_stay(n_stages, backbone, two_fruits):
    train_set = two_fruits[0]
    setup = TrainingSetup(backbone, load_policy("light"), 1, 0)
    head = FineTune(n_stages=n_stages, steps=3, batch_size=4)
    head.classes_ = np.array(["a", "b"])
    head._bind(backbone)
    examples = head._gather(train_set.sources, train_set.targets, setup)
    tuned, curve = head._tune(examples, 1e-2, setup, head._new_steps(setup), "x")
    fresh = head._split.new_tail().state_dict()
    changed = {name for name, tensor in tuned.body.state_dict().items() if not torch.equal(tensor, fresh[name])}
    # The first of the stages that follow the cut, and the convolution that follows all of them.
    assert {name.split(".")[1] for name in changed if fresh[name].ndim == 4} == {*map(str, range(n_stages + 1))}
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert len(curve) == 3


def test_fine_tune_of_joined_backbones_is_refused_with_an_alternative(two_fruits):
    setup = TrainingSetup(load_backbone("efficientnet_lite0+efficientnet_lite2"), load_policy("light"), 1, 0)
    with pytest.raises(InvalidInputError, match="linear-probe"):
        fit(FineTune(), two_fruits[0], setup)


def test_fine_tune_of_single_images_without_views_is_the_linear_probe(two_fruits):
    pair = two_fruits[0].subset([0, 4])
    tuned, probe = (
        FewShotClassifier(head=head, augmentation="none", representation="plain").fit(pair)
        for head in ("fine-tune", "linear-probe")
    )
    assert tuned.head_.learning_rate_ == 0
    assert "no evidence" in tuned.head_.note_
    assert tuned.head_.note_ in tuned.explain_choice()
    scores = probe.head_._scores(probe._features(two_fruits[1].sources))
    expected = torch.softmax(scores * tuned.head_.scale_, dim=1)
    np.testing.assert_allclose(tuned.predict_proba(two_fruits[1]), expected, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fine_tune_runs_where_its_network_does(two_fruits):
    on = {}
    for device in ("cpu", "cuda"):
        classifier = FewShotClassifier(load_backbone("efficientnet_lite0", device=device), "fine-tune", n_views=2)
        on[device] = classifier.fit(two_fruits[0]).predict_proba(two_fruits[1])
    np.testing.assert_allclose(on["cuda"], on["cpu"], atol=0.02)


def test_the_tuned_baseline_sees_a_new_view_in_each_pass_as_far_as_memory_allows(two_fruits, monkeypatch):
    from fewshot.finetune import simple_cnn

    sources, codes = two_fruits[0].sources[:2], np.array([0, 1])
    pixels, labels = TunedSimpleCNNHead(passes=5)._views(sources, codes, SETUP)
    assert len(pixels) == len(labels) == 2 * (1 + 5)
    picture = read_image(sources[1])
    np.testing.assert_array_equal(pixels[6], simple_cnn.squash(picture))
    np.testing.assert_array_equal(pixels[8], SETUP.policy.view(picture, index=2, seed=0, size=256))
    assert labels.tolist() == [0] * 6 + [1] * 6
    monkeypatch.setattr(simple_cnn, "_VIEWS_BYTES", 2 * 4 * 3 * 256**2)
    assert len(TunedSimpleCNNHead(passes=5)._views(sources, codes, SETUP)[0]) == 2 * 4


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_the_learning_rate_rises_then_falls_and_never_leaves_its_range(steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    scheduler, rates = warm_up_and_decay(optimizer, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    top = int(np.argmax(rates))
    assert max(rates) == 2.0
    assert min(rates) > 0
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
