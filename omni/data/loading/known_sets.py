"""The public data sets of `configs/real`: their names on the Hub, sizes and licences."""

from typing import NamedTuple

from omni.data.loading.hub import HUB


class KnownSet(NamedTuple):
    """A public data set, as far as `configs/real` reads it.

    Attributes:
        entries: What is read, as a configuration names it, without `hub:`.
        size: About how much is downloaded, in GB.
        licence: As its page on the Hub, or its authors, state it.
        use: The stages and the files of `configs/real` that read it.
        in_chain: Whether `configs/real/chain.yaml` reads it.
    """

    entries: tuple[str, ...]
    size: float
    licence: str
    use: str
    in_chain: bool = True

    @property
    def names(self) -> list[str]:
        """Its entries with `hub:`."""
        return [f"{HUB}{entry}" for entry in self.entries]


ALL = "real"  # name of all sets of `configs/real/chain.yaml`

_LIBRISPEECH = "openslr/librispeech_asr@main:clean:"
_CAULDRON = "HuggingFaceM4/the_cauldron@main:"
_VOICE = "MikhailT/lj-speech@main::full"

KNOWN_SETS = {
    "tinystories": KnownSet(
        ("roneneldan/TinyStories@main::train", "roneneldan/TinyStories@main::validation[0:2000]"),
        1.0,
        "CDLA-Sharing-1.0",
        "A thinker",
    ),
    "wikitext-103": KnownSet(
        tuple(f"Salesforce/wikitext@main:wikitext-103-raw-v1:{split}" for split in ("train", "validation")),
        0.3,
        "CC BY-SA 3.0, GFDL",
        "A thinker",
    ),
    "fineweb-edu": KnownSet(
        ("HuggingFaceFW/fineweb-edu@main:sample-10BT:train[0:100000]",), 0.4, "ODC-By 1.0", "A thinker"
    ),
    "librispeech": KnownSet(
        tuple(f"{_LIBRISPEECH}{rows}" for rows in ("train.100[0:28539]", "validation[0:2703]", "test[0:2620]")),
        7.0,
        "CC BY 4.0",
        "B audio, E omni",
    ),
    "tiny-imagenet": KnownSet(
        tuple(f"zh-plus/tiny-imagenet@main::{split}" for split in ("train", "valid")),
        0.2,
        "research use",
        "C vision",
    ),
    "cifar-10": KnownSet(
        tuple(f"uoft-cs/cifar10@main::{split}" for split in ("train", "test")),
        0.1,
        "research use",
        "C cifar10",
        in_chain=False,
    ),
    "flickr8k": KnownSet(
        tuple(f"jxie/flickr8k@main::{split}" for split in ("train", "validation", "test")),
        1.1,
        "research, non-commercial",
        "C captions",
    ),
    "ljspeech": KnownSet((f"{_VOICE}[500:]", f"{_VOICE}[0:500]"), 3.8, "public domain", "D codec, talker, vocoder"),
    "the-cauldron": KnownSet(
        (
            *(f"{_CAULDRON}cocoqa:train{rows}" for rows in ("[500:20500]", "[0:500]")),
            *(f"{_CAULDRON}clevr:train{rows}" for rows in ("[500:15500]", "[0:500]")),
            *(f"{_CAULDRON}nlvr2:train{rows}" for rows in ("[500:8500]", "[0:500]")),
            f"{_CAULDRON}visual7w:train[0:10000]",
        ),
        4.0,
        "by subset, see its page",
        "E omni",
    ),
    "llava-instruct": KnownSet(
        ("HuggingFaceH4/llava-instruct-mix-vsft@main::train[0:10000]",), 1.0, "CC BY-NC 4.0", "E omni"
    ),
    "voice-assistant": KnownSet(
        tuple(f"gpt-omni/VoiceAssistant-400K@main::train{rows}" for rows in ("[200:10200]", "[0:200]")),
        3.0,
        "Apache-2.0",
        "E omni",
    ),
    "smol-smoltalk": KnownSet(("HuggingFaceTB/smol-smoltalk@main::train[0:60000]",), 0.2, "Apache-2.0", "E omni"),
    "alpaca": KnownSet(
        tuple(f"tatsu-lab/alpaca@main::train{rows}" for rows in ("[200:]", "[0:200]")), 0.1, "CC BY-NC 4.0", "E omni"
    ),
}
