"""Data and media that omni reads, for fuzzing: valid files, their mutations, and the readers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from conftest import tones
from fuzz_files import PICTURE, mutate_files, read_each, write_jsonl
from guarded_cases import Kind, command, refused
from mutations import mutate_bytes
from PIL import Image

from omni.text.tokenizer import ByteTokenizer

# ------------------------------------------------------------------ data


def speech() -> Kind:
    from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
    from omni.data.speech.opening import open_utterances
    from omni.data.speech.rows import read_rows
    from omni.text.ctc_vocabulary import CharacterVocabulary

    names = "m.jsonl m.csv m.tsv nemo.jsonl"

    def make() -> None:
        for name, text in (("a", "abc"), ("b", "cab")):
            soundfile.write(f"{name}.wav", tones(text), 16_000)
        rows = [{"audio": "a.wav", "text": "abc", "speaker": "x", "duration": 0.48}, {"audio": "b.wav", "text": "cab"}]
        write_jsonl("m.jsonl", rows)
        write_jsonl("nemo.jsonl", [{"audio_filepath": "a.wav", "text": "abc", "duration": 0.48, "offset": 0}])
        for name, mark in (("m.csv", ","), ("m.tsv", "\t")):
            table = ["audio,text,duration", "a.wav,abc,0.48", 'b.wav,"c, a",']
            Path(name).write_text("\n".join(table).replace(",", mark), encoding="utf-8")

    def read(name: str) -> None:
        command("data", "check", name)
        units = CharacterVocabulary(" abc")
        options = {"min_duration": 0.1, "max_duration": 4.0, "cache_dir": Path("cache"), "may_write": True}
        options |= {"errors": RowErrors("train", BadRowPolicy())}
        refused(lambda: [row.read() for row in read_rows(open_utterances([name]), units, **options)[0]])

    return Kind(make, mutate_files(names), read_each(names, read))


def conversations() -> Kind:
    from omni.data.conversations.opening import open_conversations
    from omni.data.conversations.rows import conversation_rows
    from omni.data.loading.bad_rows import BadRowPolicy, RowErrors

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
        write_jsonl("m.jsonl", [{"messages": turns, "task": "colour"}, {"messages": more}])

    def read(name: str) -> None:
        command("data", "check", name)
        for skip in (False, True):
            sources = refused(open_conversations, [name])
            errors = RowErrors("train", BadRowPolicy(skip=skip))
            refused(lambda: list(conversation_rows(sources, ByteTokenizer(), errors=errors)))  # noqa: B023

    return Kind(make, mutate_files("m.jsonl"), read_each("m.jsonl", read))


def image_lists() -> Kind:
    names = "m.jsonl m.csv captions.txt coco.json"

    def make() -> None:
        PICTURE.save("x.png")
        PICTURE.rotate(90).save("y.png")
        write_jsonl(
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
        write_jsonl("x.jsonl", [{"text": "the red star"}, {"text": "is here"}])
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
    from omni.media.audio import audio_blocks, audio_info, native_blocks, read_audio
    from omni.media.container import audio_remarks

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
    from omni.media.image_file import image_info
    from omni.media.images import Preprocessing, read_image

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


def _all(blocks: Callable, *arguments: float) -> Callable[[object], list]:
    return lambda source: list(blocks(source, *arguments))


def _one_file_stays(rng: Random) -> None:
    """Mutates a file and removes the others."""
    chosen, *others = rng.sample(sorted(Path().glob("*.*")), len(list(Path().glob("*.*"))))
    for other in others:
        other.unlink()
    chosen.write_bytes(mutate_bytes(rng, chosen.read_bytes()))
