"""A plan counts parameters, and measures the memory that training needs without making weights."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from omni.batch import TextBatch
from omni.cli import main
from omni.commands.plan import run
from omni.errors import UserError
from omni.losses import Loss
from omni.models.audio_encoder import AudioEncoder
from omni.models.classifier import Classifier
from omni.models.codec import Codec
from omni.models.contrast import ContrastHead
from omni.models.discriminators import Discriminators
from omni.models.text_encoder import TextEncoder
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.models.vocoder import Vocos
from omni.optim.optimizers import adamw
from omni.stages.audio import SpeechRecognition
from omni.stages.codec import CodecTraining
from omni.stages.stage import Stage
from omni.stages.thinker import ThinkerPretraining
from omni.stages.vision import VisionPretraining
from omni.stages.vocoder import VocoderTraining
from omni.training.memory import MemoryTracker, format_count, format_size, parse_size
from omni.training.memory_plan import Plan, fake_tensors, measure

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = sorted(CONFIGS.glob("models/*/thinker.yaml"))
DATA = {"batch_size": 4, "context": 64}
TOY = {"vocab_size": 512, "dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 128}


@pytest.fixture(autouse=True)
def _alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stage_of(thinker: dict[str, Any], **kwargs: Any) -> ThinkerPretraining:
    return ThinkerPretraining(Thinker(**{**TOY, **thinker}), **kwargs)


def plan_of(thinker: dict[str, Any] | None = None, *, precision: str = "32-true", **kwargs: Any) -> Plan:
    with fake_tensors():
        return measure(stage_of(thinker or {}, **kwargs), DATA, precision=precision)


def command(*args: str, config: Path = CONFIGS / "thinker.yaml") -> list[str]:
    return ["plan", "--config", str(config), *args, "--data.init_args.batch_size=1", "--data.init_args.context=8"]


def parameters_of(size: dict[str, Any]) -> int:
    """Number of parameters of a Thinker with QK-norm and SwiGLU, from its formula."""
    dim, heads, layers, ffn = size["dim"], size["num_heads"], size["num_layers"], size["ffn_dim"]
    head, kv_heads, experts = dim // heads, size.get("num_kv_heads", heads), size.get("num_experts", 0)
    scales = 2 if size.get("shared_qk_scales") else heads + kv_heads
    attention = dim * dim + 2 * dim * kv_heads * head + dim * dim + scales * head
    network = max(1, experts) * 3 * dim * ffn + experts * dim
    matrices = 1 if size.get("tied", True) else 2
    return matrices * size["vocab_size"] * dim + layers * (attention + network + 2 * dim) + dim


def saved_bytes(stage: ThinkerPretraining) -> int:
    """Bytes that PyTorch saves for the backward pass of a real batch, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # kept alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage.loss(stage.example_batch(DATA))
    assert loss.total.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def test_parameters_of_every_size_equal_the_formula():
    assert [path.parent.name for path in SIZES] == ["laptop", "large", "medium", "small", "tiny", "xl"]
    for path in SIZES:
        size = yaml.safe_load(path.read_text())
        with fake_tensors():
            assert Thinker(**size).num_parameters == parameters_of(size), path


def test_the_largest_size_is_planned_without_its_weights(tmp_path: Path):
    size = CONFIGS / "models/xl/thinker.yaml"
    config = yaml.safe_load((CONFIGS / "thinker.yaml").read_text())
    config["model"]["init_args"]["thinker"] = str(size)
    path = tmp_path / "xl.yaml"
    path.write_text(yaml.safe_dump(config))
    plan = main(command("--gpu_memory=24GiB", config=path))
    assert plan.total_parameters == parameters_of(yaml.safe_load(size.read_text()))
    assert plan.weights == plan.gradients == 4 * plan.total_parameters
    assert not plan.fits


def test_tiny_as_documented(capsys: pytest.CaptureFixture[str]):
    plan = main(command("--trainer.precision=bf16-mixed", "--gpu_memory=12GB"))
    assert plan.total_parameters == pytest.approx(20.3e6, rel=0.01)
    assert plan.parameters == {"thinker": plan.total_parameters}
    assert plan.batch == {"tokens": (1, 8), "targets": (1, 8), "rows": (1,)}
    assert plan.cache == 2 * 4 * 2 * 64 * 8 * 4  # keys and values, layers, heads, head_dim, context, bytes
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[1] == "precision bf16-mixed"
    assert lines[-1] == f"fits 12GB: yes (uses {format_size(plan.training)})"
    assert any(line.split() == ["thinker", "20.32", "M"] for line in lines)


def test_verdict_follows_the_memory():
    plan = plan_of()
    assert plan.fits is None
    assert dataclasses.replace(plan, gpu_memory=plan.training).fits
    assert not dataclasses.replace(plan, gpu_memory=plan.training - 1).fits


@pytest.mark.parametrize("thinker", [{}, {"gradient_checkpointing": True}, {"num_experts": 4}, {"tied": False}])
def test_activations_are_those_of_a_real_batch(thinker: dict[str, Any]):
    assert plan_of(thinker).activations == pytest.approx(saved_bytes(stage_of(thinker)), rel=0.02)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("thinker", [{}, {"num_experts": 4, "gradient_checkpointing": True}])
def test_a_plan_equals_the_count_of_a_real_step(thinker: dict[str, Any], precision: str):
    assert plan_of(thinker, precision=precision) == measure(stage_of(thinker), DATA, precision=precision)


def test_memory_savings_are_measured():
    plain = plan_of()
    assert plan_of({"gradient_checkpointing": True}).activations < plain.activations / 3
    assert plan_of(precision="bf16-mixed").activations < plain.activations
    assert plan_of(optimizer="muon").optimizer_state < plain.optimizer_state


def test_optimizer_state_by_hand():
    thinker = Thinker(**TOY)
    everything, steps = thinker.num_parameters, 4 * len(list(thinker.parameters()))  # each state counts its steps
    linear = [module for module in thinker.transformer.modules() if isinstance(module, torch.nn.Linear)]
    hidden = sum(module.weight.numel() for module in linear)
    assert plan_of().optimizer_state == pytest.approx(4 * 2 * everything, abs=steps)
    assert plan_of(optimizer="muon").optimizer_state == pytest.approx(4 * (2 * everything - hidden), rel=0.01)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("thinker", [{}, {"vocab_size": 8192}, {"gradient_checkpointing": True}])
def test_peak_memory_of_a_real_step_is_within_the_plan(thinker: dict[str, Any], micro_batches: int):
    stage = stage_of(thinker)
    optimizer = adamw(stage, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    with MemoryTracker() as ledger:
        ledger.add(list(stage.parameters()))
        for _ in range(2):
            ledger.peak = 0  # the first step makes the optimizer's state
            for _ in range(micro_batches):
                stage.loss(stage.example_batch(DATA)).total.backward()
            optimizer.step()
            optimizer.zero_grad()
    with fake_tensors():
        plan = measure(stage_of(thinker), DATA, accumulating=micro_batches > 1)
    assert ledger.peak <= plan.training <= ledger.peak + min(plan.gradients, plan.activations)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_peak_memory_of_a_real_speech_step_is_within_the_plan(gradient_checkpointing: bool):
    data = {"max_duration": 2.0, "max_batch_rows": 4, "batch_seconds": 8.0, "num_mels": 16}

    def make() -> SpeechRecognition:
        encoder = AudioEncoder(
            num_mels=16, dim=32, num_layers=2, num_heads=2, ffn_dim=64, gradient_checkpointing=gradient_checkpointing
        )
        return SpeechRecognition(encoder)

    stage = make()
    with MemoryTracker() as ledger:
        ledger.add(list(stage.parameters()))
        stage.loss(stage.example_batch(data)).total.backward()
    with fake_tensors():
        plan = measure(make(), data)
    assert plan.batch["mels"] == (4, 200, 16)
    assert plan.total_parameters == sum(parameter.numel() for parameter in stage.parameters())
    assert ledger.peak <= plan.training <= 1.3 * ledger.peak + plan.optimizer_state


def test_the_configuration_of_speech_is_planned(capsys: pytest.CaptureFixture[str]):
    plan = main(["plan", "--config", str(CONFIGS / "audio.yaml"), "--gpu_memory=12GB"])
    assert plan.stage == "SpeechRecognition"
    assert plan.fits
    assert "KV cache" not in capsys.readouterr().out


@pytest.mark.parametrize("frozen_thinker", [False, True])
def test_peak_memory_of_a_real_vision_step_is_within_the_plan(frozen_thinker: bool):
    data = {"batch_size": 4, "image_size": 32, "caption_tokens": 12}

    def make() -> VisionPretraining:
        encoder = VisionEncoder(image_size=32, patch_size=8, dim=32, num_layers=2, num_heads=2, ffn_dim=64)
        classifier = Classifier(dim=32, num_classes=5)
        if frozen_thinker:
            contrast = ContrastHead(image_dim=32, text_dim=TOY["dim"])
            return VisionPretraining(encoder, classifier, contrast, thinker=Thinker(**TOY), frozen=["thinker"])
        text_encoder = TextEncoder(vocab_size=64, dim=16, num_layers=1, num_heads=2, ffn_dim=32)
        contrast = ContrastHead(image_dim=32, text_dim=16)
        return VisionPretraining(encoder, classifier, contrast, text_encoder=text_encoder)

    stage = make()
    for name in stage.frozen:
        stage.part(name).requires_grad_(False)
    with MemoryTracker() as ledger:
        ledger.add(list(stage.parameters()))
        stage.loss(stage.example_batch(data)).total.backward()
    with fake_tensors():
        plan = measure(make(), data)
    assert plan.batch["images"] == (4, 3, 32, 32)
    assert plan.batch["captions"] == (4, 1, 12)
    assert plan.batch["labels"] == (4, 5)
    assert plan.trained_parameters == sum(p.numel() for p in stage.parameters() if p.requires_grad)
    assert ledger.peak <= plan.training <= 1.3 * ledger.peak + plan.optimizer_state


def test_the_configuration_of_images_is_planned(capsys: pytest.CaptureFixture[str]):
    plan = main(["plan", "--config", str(CONFIGS / "vision.yaml"), "--gpu_memory=12GB"])
    assert plan.stage == "VisionPretraining"
    assert plan.batch == {"images": (64, 3, 224, 224), "labels": (64, 10), "rows": (64,)}
    assert plan.fits
    assert "vision_encoder" in capsys.readouterr().out


def test_a_codec_is_planned_with_its_first_step():
    data = {"crop": 1.0, "max_duration": 20.0, "max_batch_rows": 4, "batch_seconds": 8.0, "num_mels": 16}

    def make() -> CodecTraining:
        codec = Codec(num_mels=16, dim=32, num_codebooks=2, codebook_size=16, codebook_dim=8)
        return CodecTraining(codec, AudioEncoder(num_mels=16, dim=32, num_layers=1, num_heads=2, ffn_dim=64))

    with fake_tensors():
        plan = measure(make(), data)
    assert plan == measure(make(), data)
    assert plan.batch["mels"] == (4, 100, 16)
    assert plan.trained_parameters == plan.parameters["codec"]


def test_the_configuration_of_the_codec_is_planned():
    plan = main(["plan", "--config", str(CONFIGS / "codec.yaml"), "--gpu_memory=12GB"])
    assert plan.stage == "CodecTraining"
    assert plan.fits


def test_a_vocoder_is_planned_with_its_discriminators():
    data = {"crop": 0.5, "max_duration": 20.0, "max_batch_rows": 4, "batch_seconds": 8.0, "num_mels": 16}

    def make() -> VocoderTraining:
        judges = Discriminators(periods=[2], period_channels=[4, 8], resolutions=[128], resolution_channels=4)
        codec = Codec(num_mels=16, dim=32, num_codebooks=2, codebook_size=16, codebook_dim=8)
        return VocoderTraining(Vocos(num_mels=16, dim=32, num_layers=1), judges, codec)

    with fake_tensors():
        plan = measure(make(), data)
    real = measure(make(), data)
    assert plan.activations == pytest.approx(real.activations, abs=64)  # one scalar is freed later
    assert plan == dataclasses.replace(real, activations=plan.activations)
    assert plan.batch["audio"] == (4, 8000)
    assert plan.trained_parameters == plan.parameters["vocoder"] + plan.parameters["discriminators"]


def test_the_configuration_of_the_vocoder_is_planned():
    plan = main(["plan", "--config", str(CONFIGS / "vocoder.yaml"), "--gpu_memory=12GB"])
    assert plan.stage == "VocoderTraining"
    assert plan.fits


class Pair(Stage):
    """Two Thinkers trained on the same batch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first, self.second = Thinker(**TOY), Thinker(**TOY)

    def loss(self, batch: TextBatch) -> Loss:
        hidden = self.first.encode(self.second.encode(batch.tokens).hidden.argmax(-1)).hidden
        return Loss(self.first.cross_entropy(hidden, batch.targets), torch.tensor(batch.tokens.numel()), {})

    def example_batch(self, data: Mapping[str, Any]) -> TextBatch:
        return stage_of({}).example_batch(data)


def test_the_configuration_of_stage_e_is_planned():
    plan = main(["plan", "--config", str(CONFIGS / "world/omni.yaml")])  # with the text of prompts in its loss
    trained = ("thinker", "vision_projector", "audio_projector")
    assert plan.trained_parameters == sum(plan.parameters[name] for name in trained)
    assert plan.gradients == 4 * plan.trained_parameters


def test_frozen_parts_have_no_gradients_and_no_state():
    with fake_tensors():
        plan = measure(Pair(frozen=["second"]), DATA)
    assert plan.parameters["first"] == plan.parameters["second"] == plan.trained_parameters
    assert plan.total_parameters == 2 * plan.trained_parameters
    assert plan.weights == 2 * plan.gradients == plan.inference_weights
    assert plan.optimizer_state == plan_of().optimizer_state
    assert plan.cache == 2 * plan_of().cache
    with pytest.raises(UserError, match="nothing is left to train"):
        plan_of(frozen=["thinker"])


def test_a_plan_needs_the_size_of_a_batch():
    with fake_tensors(), pytest.raises(UserError, match=r"data\.init_args has no 'batch_size'"):
        measure(stage_of({}), {"context": 8})


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--gpu_memory=12"], "'12' is not an amount of memory"),
        (["--devices=0"], "cannot plan 0 devices with ddp"),
        (["--devices=2", "--strategy=fsdp"], "cannot plan 2 devices with fsdp: give 1 or more devices, and ddp or"),
        (["--gpu_memory=12 apples"], "give a number and a unit"),
        (["--model.init_args.colour=red"], "'colour' is not accepted"),
        (["--colour=red"], "unrecognized arguments: --colour=red"),
        (["--model.init_args.thinker.init_args.dim=255"], "dim (255) must be a multiple of num_heads (4)"),
        (["--trainer.precision=transformer-engine"], "precision transformer-engine is not supported"),
        (["--trainer.precision=bf16-true"], "precision bf16-true is not supported: use bf16-mixed"),
    ],
)
def test_errors_end_in_one_line(args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(command(*args))
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1


def test_a_run_s_own_configuration_can_be_planned(tmp_path: Path):
    kept = yaml.safe_load((CONFIGS / "thinker.yaml").read_text())
    kept["model"]["init_args"]["thinker"] = {"class_path": "omni.models.thinker.Thinker", "init_args": TOY}
    kept["trainer"].pop("callbacks+", None)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**kept, "ckpt_path": None, "weights_only": None}))
    assert run(["--config", str(path)]).total_parameters == parameters_of(TOY)


def test_a_copy_of_a_fake_tensor_is_of_the_same_mode():
    with fake_tensors():
        tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)]).requires_grad_(False)
        tied[1].weight = tied[0].weight
        duplicate, number = copy.deepcopy((tied, torch.tensor(3.0)))
    weight = duplicate[0].weight
    assert weight is duplicate[1].weight
    assert weight is not tied[0].weight
    assert isinstance(weight, nn.Parameter)
    assert not weight.requires_grad
    for tensor in (weight, number):
        assert isinstance(tensor, FakeTensor)
        # PyTorch's own copy has another mode, and both free the same references.
        assert tensor.fake_mode is tied[0].weight.fake_mode


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GB", 12 * 10**9), ("24 GiB", 24 * 2**30), ("800mb", 8 * 10**8), ("1.5TiB", 3 * 2**39), ("4kB", 4000)],
)
def test_sizes_are_parsed(text: str, size: int):
    assert parse_size(text) == size


def test_numbers_are_formatted():
    assert [format_size(n) for n in (0, 512, 2**20, 3.1 * 2**30, 5 * 2**40)] == [
        "0 B", "512 B", "1.0 MiB", "3.1 GiB", "5.0 TiB"
    ]  # fmt: skip
    assert [format_count(n) for n in (12, 1536, 20_320_000, 3_371_017_216)] == ["12", "1.54 k", "20.32 M", "3.37 B"]


def test_ledger_counts_storages_not_tensors():
    ledger = MemoryTracker()
    with ledger:
        a = torch.zeros(100)
        b = a.view(10, 10)[2:]
        assert ledger.live == 400
        del a
        assert ledger.live == 400  # the view keeps it alive
        c = b + 1
        del b
        assert (ledger.live, ledger.peak) == (c.untyped_storage().nbytes(), 720)
