"""The chains of `configs/real`: what they need, and a few steps of each stage on replicas and on real files."""

import json
import os
import re
import shutil
import warnings
from itertools import islice
from pathlib import Path

import pytest
from toy_hub import FakeHub, write_replicas

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.pipeline.definition import read_pipeline

CONFIGS = Path(__file__).parents[2] / "configs"
PACK = os.environ.get("OMNI_DATA")
SHORT = {
    **{f"trainer.{name}": 1 for name in ("val_check_interval", "limit_val_batches", "accumulate_grad_batches")},
    "trainer.accelerator": "cpu",
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
}
# Values that make a step cheap, by stage; the parts keep their documented widths.
CHEAP = {
    "thinker": {"data.init_args.batch_size": 2, "data.init_args.context": 64, "model.init_args.sample_tokens": 4},
    "audio": {"data.init_args.batch_seconds": 20},
    "vision": {"data.init_args.batch_size": 4},
    "captions": {"data.init_args.batch_size": 4, "data.init_args.tokenizer": "bytes"},
    "codec": {"data.init_args.batch_seconds": 20, "model.init_args.codec.codebook_size": 32},
    "talker": {
        "data.init_args.min_score": 0,
        "data.init_args.min_speed": 0,
        "data.init_args.max_speed": 1000,
        "data.init_args.batch_seconds": 21,
        "model.init_args.sentences": 1,
        "model.init_args.talker.codebook_size": 32,
    },
    "vocoder": {"data.init_args.batch_seconds": 20, "data.init_args.crop": 0.3},
    "omni": {
        "data.init_args.batch_tokens": 1024,
        "model.init_args.answer_tokens": 4,
        "trainer.limit_val_batches": "1.0",  # of all tasks: those of one batch may all be left out of val/accuracy
    },
}


def run(arguments, values, steps, *resume):
    """Trains a stage up to a step."""
    values = {**SHORT, **values, "trainer.max_steps": steps}
    warnings.simplefilter("default")  # for rows that are left out: an untrained recogniser aligns them badly
    main(["fit", *arguments, *(f"--{key}={value}" for key, value in values.items()), *resume])


@pytest.mark.parametrize("size", ["small", "medium"])
def test_learning_rates_of_the_sizes_follow_the_width(size):
    """Each is the default one times sqrt(default width / width)."""
    parts = {"audio": "audio_encoder", "vision": "vision_encoder", "omni": "thinker"}
    stages, defaults = (read_pipeline(Path(f"real/{name}.yaml")).stages for name in (size, "chain"))
    assert set(stages) == set(defaults) - {"captions"}
    for name, stage in stages.items():
        part = f"model.init_args.{parts.get(name, name)}.init_args.dim"
        given, default = stage.configuration.get, defaults[name].configuration.get
        rate = default("model.init_args.lr") * (default(part) / given(part)) ** 0.5
        assert given("model.init_args.lr") == pytest.approx(rate, rel=0.03), name


@pytest.mark.slow
def test_the_forecast_of_the_chain_and_the_documented_sizes(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    stages = {stage.name: stage for stage in main(["plan", "--chain", "real/local.yaml"])}
    out = capsys.readouterr().out
    assert "Assumed MFU: RTX 3060 25% of 25.5 TFLOP/s" in out
    assert all(stage.plan.fits for stage in stages.values())
    hours = [float(cell) for cell in re.findall(r"([\d.]+) h", out.splitlines()[len(stages) + 1])]
    assert hours == sorted(hours, reverse=True)
    counts = {name: stage.plan.parameters for name, stage in stages.items()}
    assert counts["vision"]["vision_encoder"] == pytest.approx(0.91e6, rel=0.05)
    main(["train", "real/chain.yaml", "--dry_run"])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:10]] == [
        *read_pipeline(Path("real/chain.yaml")).stages,
        "all",
    ]
    assert " no " not in out
    for size, memory in (("small", "8GB"), ("medium", "12GB")):
        planned = main(["plan", "--chain", f"real/{size}.yaml", "--gpu_memory", memory])
        assert all(stage.plan.fits for stage in planned)
    assert not list(workplace.rglob("*.ckpt"))


@pytest.mark.slow
def test_every_stage_trains_on_replicas_and_resumes(workplace, monkeypatch, tmp_path_factory):
    hub = FakeHub(write_replicas(tmp_path_factory.mktemp("hub")), monkeypatch)
    shutil.copytree(CONFIGS, "configs")
    for path in Path("configs/real").glob("*.yaml"):  # the replicas have 12 rows
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\[0:(200|500)\]", "[0:4]", re.sub(r"\[(200|500):", "[4:", text))
        path.write_text(text.replace("num_classes: 200", "num_classes: 3"), encoding="utf-8")
    more = {name: {**values, "data.init_args.num_workers": 0} for name, values in CHEAP.items()}
    more["thinker"]["data.init_args.tokenizer"] = "bytes"
    more["vocoder"]["model.init_args.codec.codebook_size"] = 32
    stages = read_pipeline(Path("configs/real/chain.yaml")).stages
    assert stages.keys() == more.keys()
    for name, stage in stages.items():
        run(stage.arguments, more[name], 1)
        run(stage.arguments, more[name], 2, "--ckpt_path=last")
        assert Checkpoint(stage.folder / "last.ckpt").lineage["step"] == 2
    assert set(hub.revisions.values()) == {"main"}


@pytest.mark.slow
def test_a_stream_resumes_after_its_hub_failed(workplace, monkeypatch, tmp_path_factory, fails):
    hub = FakeHub(write_replicas(tmp_path_factory.mktemp("hub"), rows=48), monkeypatch)
    arguments = ["--config", str(CONFIGS / "real/thinker.yaml")]
    values = {**CHEAP["thinker"], "data.init_args.tokenizer": "bytes", "data.init_args.num_workers": 0}
    values |= {"data.init_args.train": "hub:roneneldan/TinyStories@main::train", "data.init_args.streaming": "true"}
    values |= {"data.init_args.val": "hub:roneneldan/TinyStories@main::validation"}
    run(arguments, values, 2)
    hub.error = ConnectionError("no route to host")
    pairs = [f"--{key}={value}" for key, value in {**SHORT, **values, "trainer.max_steps": 4}.items()]
    line = fails(main, ["fit", *arguments, *pairs, "--ckpt_path=last"])
    assert "the Hub cannot be reached" in line
    hub.error = None
    run(arguments, values, 4, "--ckpt_path=last")
    assert Checkpoint("lightning_logs/real/thinker/last.ckpt").lineage["step"] == 4


@pytest.mark.slow
@pytest.mark.skipif(PACK is None, reason="real data: set OMNI_DATA to a folder with the data that local.yaml names")
def test_every_stage_trains_on_a_little_of_the_real_files(workplace):
    a_little_of(Path(PACK or ""), Path("data/real"))
    for kind, folder in {
        "easy-vqa": "vl/easy-vqa", "nlvr": "vl/nlvr", "flickr8k": "vl/flickr8k", "gsm8k": "text/gsm8k",
        "an4": "speech/an4",
    }.items():  # fmt: skip
        main(["data", "prepare", kind, f"data/real/{folder}", "--out", f"data/local/{kind.replace('-', '_')}"])
    more = {name: dict(values) for name, values in CHEAP.items()}
    for name in ("thinker", "omni"):
        more[name] |= {"model.init_args.thinker.vocab_size": 1000}
    more["thinker"] |= {"data.init_args.vocab_size": 1000}
    for name, stage in read_pipeline(CONFIGS / "real/local.yaml").stages.items():
        run(stage.arguments, more[name], 2)
        assert Checkpoint(stage.folder / "last.ckpt").lineage["step"] == 2


def a_little_of(pack, folder):
    """The layout of the data pack with the first lines of its lists, and links to its media."""
    for name, lines in {
        "text/wikitext-2-raw/train.txt": 2000,
        "text/wikitext-2-raw/valid.txt": 300,
        "text/gsm8k/train.jsonl": 60,
        "speech/LibriSpeech-5h/dev.jsonl": 6,
        "speech/LJSpeech-40min/all.jsonl": 24,
        "speech/an4/etc/an4_train.fileids": 20,
        "speech/an4/etc/an4_train.transcription": 2000,
        "speech/an4/etc/an4_test.fileids": 4,
        "speech/an4/etc/an4_test.transcription": 2000,
        "vl/nlvr/dev/dev.json": 80,
        "vl/flickr8k/captions.txt": 100_000,
        "vl/flickr8k/Flickr_8k.trainImages.txt": 12,
        "vl/flickr8k/Flickr_8k.devImages.txt": 4,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (pack / name).open(encoding="utf-8") as file:
            (folder / name).write_text("".join(islice(file, lines)), encoding="utf-8")
    name = "speech/LibriSpeech-5h/train.jsonl"
    rows = (pack / name).read_text(encoding="utf-8").splitlines(keepends=True)[::25]  # of all speakers
    (folder / name).write_text("".join(rows), encoding="utf-8")
    for split in ("train", "test"):
        asked = json.loads((pack / f"vl/easy-vqa/{split}/questions.json").read_text(encoding="utf-8"))[:60]
        (folder / f"vl/easy-vqa/{split}").mkdir(parents=True)
        (folder / f"vl/easy-vqa/{split}/questions.json").write_text(json.dumps(asked), encoding="utf-8")
    for name in (
        *("speech/LibriSpeech-5h/train", "speech/LibriSpeech-5h/dev", "speech/LJSpeech-40min/wavs", "speech/an4/wav"),
        *("vl/nlvr/dev/images", "vl/flickr8k/Images", "vl/easy-vqa/train/images", "vl/easy-vqa/test/images", "vision"),
    ):
        (folder / name).symlink_to((pack / name).resolve())
