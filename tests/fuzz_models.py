"""Models, configurations and runs that omni reads, for fuzzing: valid files, their mutations, and the readers."""

from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import torch
import yaml
from conftest import tones
from fuzz_files import mutate_files, write_jsonl
from guarded_cases import Kind, command, refused
from mutations import mutate_bytes, mutate_tree

from omni.text.tokenizer import ByteTokenizer

# ------------------------------------------------------------------ models


def codes() -> Kind:
    def make() -> None:
        from toy_voice import UNITS, codec_of, save

        save(Path("codec.pt"), "codec", codec_of(), UNITS)
        soundfile.write("a.wav", tones("ab"), 16_000)
        command("codec", "encode", "a.wav", "--checkpoint", "codec.pt", "--out", "a.npz", "--device", "cpu")

    def mutate(rng: Random) -> None:
        path = Path("a.npz")
        if rng.random() < 0.5:
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
            return
        with np.load(path) as file:
            kept = {name: file[name] for name in file.files}
        name = rng.choice(sorted(kept))
        codes = kept["codes"]
        odd = [np.zeros((0, 3), int), np.zeros((9, 3)), codes[:1], np.full_like(codes, 99), np.array([[1, 2]])]
        odd += [np.array(value) for value in (10**9, -1, "x", float("nan"), 2**62)]
        kept[name] = rng.choice(odd)
        np.savez(path, **kept)

    def read() -> None:
        options = ("--checkpoint", "codec.pt", "--iterations", "1", "--device", "cpu")
        command("codec", "decode", "a.npz", *options, "--out", "made.wav", "--overwrite")

    return Kind(make, mutate, read)


def checkpoints() -> Kind:
    import toy_export
    import toy_voice

    def make() -> None:
        toy_export.save(Path("thinker.ckpt"), toy_export.toy_thinker(), ByteTokenizer())
        toy_voice.save_talker(Path("talker.ckpt"), num_speakers=2)
        toy_voice.save(Path("codec.ckpt"), "codec", toy_voice.codec_of(), toy_voice.UNITS)
        toy_voice.save(Path("audio.ckpt"), "audio_encoder", _recognizer(), toy_voice.UNITS)
        soundfile.write("a.wav", tones("ab"), 16_000)

    def mutate(rng: Random) -> None:
        name = rng.choice(["thinker.ckpt", "talker.ckpt", "codec.ckpt", "audio.ckpt"])
        for other in Path().glob("*.ckpt"):
            if other.name != name:
                other.unlink()
        if rng.random() < 0.3:
            Path(name).write_bytes(mutate_bytes(rng, Path(name).read_bytes()))
        else:
            torch.save(_mutate_content(rng, torch.load(name)), name)

    return Kind(make, mutate, _use_models)


def folders() -> Kind:
    """Folders of safetensors, as `omni hub pull` writes them, and of `transformers`."""
    import toy_export
    import toy_voice

    from omni.checkpoints.safetensors_folder import write_folder

    def make() -> None:
        toy_export.save(Path("a.pt"), toy_export.toy_thinker(), ByteTokenizer())
        toy_voice.save(Path("b.pt"), "audio_encoder", _recognizer(), toy_voice.UNITS)
        for source, name in (("a.pt", "thinker"), ("b.pt", "audio")):
            write_folder(torch.load(source), Path(name), card={"data": {}, "metrics": {}})
        soundfile.write("a.wav", tones("ab"), 16_000)

    def read() -> None:
        for name in ("thinker", "audio"):
            command("hub", "pull", f"./{name}", "--out", f"pulled-{name}")
            command("hub", "push", f"./{name}", f"./pushed-{name}")
        _use_models()

    names = "thinker/config.json audio/config.json thinker/model.safetensors audio/model.safetensors"
    return Kind(make, mutate_files(names), read)


def hugging_face() -> Kind:
    """Folders of `omni export --to hf`."""
    import toy_export

    from omni.checkpoints.checkpoint import Checkpoint

    def make() -> None:
        toy_export.save(Path("a.pt"), toy_export.toy_thinker(), toy_export.pieces())
        command("export", "a.pt", "--to", "hf", "--out", "hf")
        assert Path("hf/config.json").is_file()

    names = "hf/config.json hf/manifest.json hf/model.safetensors hf/tokenizer.model hf/config.json hf/manifest.json"
    return Kind(make, mutate_files(names), lambda: refused(Checkpoint, "hf:hf"))


# ------------------------------------------------------------------ configurations


def chains() -> Kind:
    from omni.pipeline.definition import read_pipeline

    def make() -> None:
        from toy_chain import two, written

        Path("corpus.txt").write_text("the red star. " * 50, encoding="utf-8")
        written(two())

    return Kind(make, mutate_files("chain.yaml"), lambda: refused(read_pipeline, Path("chain.yaml")))


def sweeps() -> Kind:
    def make() -> None:
        from toy_sweep import write_sweep

        Path("corpus.txt").write_text("the red star. " * 50, encoding="utf-8")
        write_sweep("toy", sampler="tpe", pruner={"kind": "asha", "factor": 2}, constraints={"parameters": "5M"})

    return Kind(make, mutate_files("toy.yaml"), partial(command, "sweep", "toy.yaml", "--dry_run"))


def configurations() -> Kind:
    def make() -> None:
        Path("corpus.txt").write_text("the red star. " * 50, encoding="utf-8")
        sizes = {"vocab_size": 288, "dim": 32, "num_layers": 2, "ffn_dim": 48}
        content = {
            "base": "thinker.yaml",
            "trainer": {"max_steps": 2, "accelerator": "cpu", "logger": {"init_args": {"name": "x"}}},
            "model": {"init_args": {"thinker": sizes, "lr": 1e-3}},
            "data": {"init_args": {"train": "corpus.txt", "tokenizer": "bytes", "context": 16, "batch_size": 4}},
        }
        Path("x.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    return Kind(make, mutate_files("x.yaml"), partial(command, "plan", "--config", "x.yaml"))


def runs() -> Kind:
    """Folders of runs: curves, validations, configuration."""
    from omni.curves.event_files import read_run
    from omni.training.history import read_validations

    def make() -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter("run") as writer:
            for step in range(5):
                writer.add_scalar("val/loss", 1 / (step + 1), step)
        [events] = Path("run").glob("events.*")
        events.rename("run/events.out.tfevents.1.x")
        Path("run/metrics.csv").write_text("step,val/loss,train/loss\n0,1.5,\n1,,2.5\n", encoding="utf-8")
        write_jsonl("run/validations.jsonl", [{"step": 1, "metrics": {"val/loss": 1.0}}])
        callbacks = [{"class_path": "x", "init_args": {"filename": "best", "monitor": "val/loss"}}]
        Path("run/config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}), encoding="utf-8")

    def read() -> None:
        refused(read_run, "run")
        refused(read_validations, Path("run"))

    names = "run/events.out.tfevents.1.x run/metrics.csv run/validations.jsonl run/config.yaml"
    return Kind(make, mutate_files(names), read)


def _recognizer() -> torch.nn.Module:
    from omni.models.audio_encoder import AudioEncoder

    return AudioEncoder(vocab_size=6, num_mels=16, dim=8, num_layers=1, num_heads=1, ffn_dim=8, conv_channels=2)


def _mutate_content(rng: Random, content: dict) -> dict:
    """Mutates a checkpoint: mostly what is not a weight."""
    if rng.random() < 0.2:
        return {**content, "state_dict": mutate_tree(rng, dict(content["state_dict"]))}
    rest = mutate_tree(rng, {key: value for key, value in content.items() if key != "state_dict"})
    return {"state_dict": content["state_dict"], **rest} if isinstance(rest, dict) else rest


def _use_models() -> None:
    """Uses the models of the current folder that are there."""
    for end in ("", ".ckpt"):
        if Path(f"thinker{end}").exists():
            command("generate", "--checkpoint", f"thinker{end}", "--text", "a", "--max_tokens", "2", "--device", "cpu")
        if Path(f"audio{end}").exists():
            command("transcribe", "a.wav", "--checkpoint", f"audio{end}", "--device", "cpu")
    if Path("talker.ckpt").exists():
        command("speak", "ab", "--checkpoint", "talker.ckpt", "--out", "b.wav", "--device", "cpu", "--overwrite")
    if Path("codec.ckpt").exists():
        command("codec", "encode", "a.wav", "--checkpoint", "codec.ckpt", "--device", "cpu", "--overwrite")
