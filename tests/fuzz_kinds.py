"""The formats that omni reads, for fuzzing: valid files, their mutations, and the readers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import torch
import yaml
from conftest import tones
from guarded_cases import Kind, command, refused
from mutations import mutate_bytes, mutate_json, mutate_jsonl, mutate_tree, mutate_yaml
from PIL import Image

from omni.text.tokenizer import ByteTokenizer

Mutation = Callable[[Random, bytes], bytes]
_MUTATIONS: dict[str, Mutation] = {".jsonl": mutate_jsonl, ".json": mutate_json, ".yaml": mutate_yaml}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8))


def mutate_files(names: str) -> Callable[[Random], None]:
    """Mutates one of several files, by their suffix."""

    def mutate(rng: Random) -> None:
        path = Path(rng.choice(names.split()))
        path.write_bytes(_MUTATIONS.get(path.suffix, mutate_bytes)(rng, path.read_bytes()))

    return mutate


def read_each(names: str, read: Callable[[str], None]) -> Callable[[], None]:
    """Reads several files."""

    def read_all() -> None:
        for name in names.split():
            read(name)

    return read_all


# ------------------------------------------------------------------ data


def speech() -> Kind:
    from omni.data.speech.manifests import open_utterances
    from omni.data.speech.rows import read_rows
    from omni.text.ctc_vocabulary import CharacterVocabulary

    names = "m.jsonl m.csv m.tsv nemo.jsonl"

    def make() -> None:
        for name, text in (("a", "abc"), ("b", "cab")):
            soundfile.write(f"{name}.wav", tones(text), 16_000)
        rows = [{"audio": "a.wav", "text": "abc", "speaker": "x", "duration": 0.48}, {"audio": "b.wav", "text": "cab"}]
        _write_jsonl("m.jsonl", rows)
        _write_jsonl("nemo.jsonl", [{"audio_filepath": "a.wav", "text": "abc", "duration": 0.48, "offset": 0}])
        for name, mark in (("m.csv", ","), ("m.tsv", "\t")):
            table = ["audio,text,duration", "a.wav,abc,0.48", 'b.wav,"c, a",']
            Path(name).write_text("\n".join(table).replace(",", mark), encoding="utf-8")

    def read(name: str) -> None:
        command("data", "check", name)
        units = CharacterVocabulary(" abc")
        options = {"min_duration": 0.1, "max_duration": 4.0, "cache_dir": Path("cache"), "may_write": True}
        refused(lambda: [row.read() for row in read_rows(open_utterances([name]), units, **options)[0]])

    return Kind(make, mutate_files(names), read_each(names, read))


def conversations() -> Kind:
    from omni.data.conversations.opening import open_conversations
    from omni.data.conversations.rows import conversation_rows

    def make() -> None:
        soundfile.write("a.wav", tones("abc"), 16_000)
        PICTURE.save("x.png")
        parts = [
            {"type": "image", "image": "x.png"},
            {"type": "audio", "audio": "a.wav"},
            {"type": "text", "text": "?"},
        ]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]
        spoken = [{"type": "text", "text": "abc"}, {"type": "audio", "audio": "a.wav"}]
        question = {"role": "user", "content": [{"type": "text", "text": "b"}]}
        more = [{"role": "system", "content": "hi"}, *turns, question, {"role": "assistant", "content": spoken}]
        _write_jsonl("m.jsonl", [{"messages": turns, "task": "colour"}, {"messages": more}])

    def read(name: str) -> None:
        command("data", "check", name)
        for skip in (False, True):
            sources = refused(open_conversations, [name])
            refused(lambda: list(conversation_rows(sources, ByteTokenizer(), skip=skip)))  # noqa: B023

    return Kind(make, mutate_files("m.jsonl"), read_each("m.jsonl", read))


def image_lists() -> Kind:
    names = "m.jsonl m.csv captions.txt coco.json"

    def make() -> None:
        PICTURE.save("x.png")
        PICTURE.rotate(90).save("y.png")
        _write_jsonl(
            "m.jsonl", [{"image": "x.png", "label": "a", "captions": ["red", "a b"]}, {"image": "y.png", "label": "b"}]
        )
        Path("m.csv").write_text("image,caption\nx.png,red\ny.png,blue\n", encoding="utf-8")
        Path("captions.txt").write_text("image,caption\nx.png,red\ny.png,blue\n", encoding="utf-8")
        coco = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1, "caption": "red"}]}
        Path("coco.json").write_text(json.dumps(coco), encoding="utf-8")

    return Kind(make, mutate_files(names), read_each(names, partial(command, "data", "check", "--kind=images")))


def text() -> Kind:
    import pyarrow
    from pyarrow import parquet

    from omni.text.tokenizer import open_tokenizer

    names = "x.txt x.jsonl x.parquet"

    def make() -> None:
        from toy_export import pieces

        Path("x.txt").write_text("the red star\n\nis here\n" * 4, encoding="utf-8")
        _write_jsonl("x.jsonl", [{"text": "the red star"}, {"text": "is here"}])
        parquet.write_table(pyarrow.table({"text": ["the red star", "is here"] * 3}), "x.parquet")
        pieces().save("pieces.model")

    def read() -> None:
        for name in names.split():
            command("data", "check", "--kind=text", name)
        tokenizer = refused(open_tokenizer, "pieces.model")
        if tokenizer is not None:
            tokenizer.decode(tokenizer.encode("the cat é"))

    return Kind(make, mutate_files(f"{names} pieces.model"), read)


# ------------------------------------------------------------------ media


def audio() -> Kind:
    from omni.media.audio import audio_blocks, audio_info, audio_remarks, native_blocks, read_audio

    made = {"a.wav": {}, "b.wav": {"subtype": "FLOAT"}, "c.wav": {"subtype": "IMA_ADPCM"}, "a.flac": {}, "a.mp3": {},
            "a.ogg": {}, "a.aiff": {}, "a.au": {}, "a.caf": {}, "a.w64": {}, "a.rf64": {}}  # fmt: skip

    def make() -> None:
        for name, options in made.items():
            soundfile.write(name, tones("abc cab"), 16_000, **options)
        Path("joined.mp3").write_bytes(2 * Path("a.mp3").read_bytes())
        Path("joined.flac").write_bytes(2 * Path("a.flac").read_bytes())

    def read() -> None:
        for path in sorted(Path().glob("*.*")):
            for source in (path, path.read_bytes()):
                for each in (audio_info, audio_remarks, read_audio, _all(audio_blocks, 1.0, 0.1), _all(native_blocks)):
                    refused(each, source)
            refused(read_audio, path, start=0.3, duration=0.2)

    return Kind(make, _one_file_stays, read)


def containers() -> Kind:
    """Audio that PyAV decodes."""
    import av

    from omni.media.audio import audio_info, read_audio

    def make() -> None:
        for name, codec in (("a.m4a", "aac"), ("a.webm", "libopus"), ("a.aac", "aac")):
            with av.open(name, "w") as container:
                stream = container.add_stream(codec, rate=48_000, layout="mono")
                samples = np.tile(tones("abc"), 6)[None].astype(np.float32)
                for start in range(0, samples.shape[1] - 1024, 1024):
                    frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
                    frame.sample_rate, frame.pts = 48_000, start
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))

    def read() -> None:
        for path in sorted(Path().glob("*.*")):
            for source in (path, path.read_bytes()):
                refused(audio_info, source)
                refused(read_audio, source)

    return Kind(make, _one_file_stays, read)


def images() -> Kind:
    from omni.media.images import Preprocessing, image_info, read_image

    def make() -> None:
        for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "ico"):
            PICTURE.save(f"x.{suffix}")
        PICTURE.convert("P").save("p.png")
        PICTURE.convert("CMYK").save("c.jpg")
        PICTURE.convert("L").save("g.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        PICTURE.save("e.jpg", exif=exif)
        PICTURE.save("a.gif", save_all=True, append_images=[PICTURE.rotate(90)])

    def read() -> None:
        for path in sorted(Path().glob("*.*")):
            for source in (path, path.read_bytes()):
                refused(image_info, source)
                image = refused(read_image, source)
                if image is not None:
                    Preprocessing(8)(image)

    return Kind(make, _one_file_stays, read)


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
        _write_jsonl("run/validations.jsonl", [{"step": 1, "metrics": {"val/loss": 1.0}}])
        callbacks = [{"class_path": "x", "init_args": {"filename": "best", "monitor": "val/loss"}}]
        Path("run/config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}), encoding="utf-8")

    def read() -> None:
        refused(read_run, "run")
        refused(read_validations, Path("run"))

    names = "run/events.out.tfevents.1.x run/metrics.csv run/validations.jsonl run/config.yaml"
    return Kind(make, mutate_files(names), read)


KINDS: dict[str, Callable[[], Kind]] = {
    kind.__name__: kind
    for kind in (
        speech, conversations, image_lists, text, audio, containers, images, codes, checkpoints, folders, hugging_face,
        chains, sweeps, configurations, runs,
    )
}  # fmt: skip


def _write_jsonl(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _all(blocks: Callable, *arguments: float) -> Callable[[object], list]:
    return lambda source: list(blocks(source, *arguments))


def _one_file_stays(rng: Random) -> None:
    """Mutates a file and removes the others."""
    chosen, *others = rng.sample(sorted(Path().glob("*.*")), len(list(Path().glob("*.*"))))
    for other in others:
        other.unlink()
    chosen.write_bytes(mutate_bytes(rng, chosen.read_bytes()))


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
