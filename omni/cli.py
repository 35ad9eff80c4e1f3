"""The command `omni`: one table of verbs."""

import os
import sys
from dataclasses import asdict, fields, replace
from importlib import import_module
from inspect import signature
from io import TextIOWrapper
from typing import Any, NamedTuple, get_args, get_type_hints

import omni
from omni.completion import completion
from omni.errors import UserError, parser_errors
from omni.files import NO_ROOM

# The trainer verbs go to LightningCLI, all others to jsonargparse.
TRAINER_VERBS = {
    "fit": "Train a stage: omni fit --config configs/thinker.yaml",
    "validate": "Measure a checkpoint on the validation data.",
    "test": "Measure a checkpoint on the test data.",
    "predict": "Write a checkpoint's outputs for data.",
}

# The sections of `omni --help`, with the first words of their verbs.
KINDS = {
    "train": ("fit", "train", "adapt", "sweep", "plan", "configs"),
    "use": ("generate", "chat", "transcribe", "classify", "speak", "codec", "serve", "predict"),
    "data": ("data",),
    "evaluate": ("validate", "test", "eval"),
    "share": ("export", "hub"),
    "measure": ("plot", "bench"),
}

# On a CPU, oneDNN and PyTorch each keep up to 1,024 compiled primitives, one for each shape. Batches of utterances or
# questions have ever new shapes: without a limit the memory of training and of servers grows for hours. A limit below
# the number of a step's shapes evicts those that all steps have: Muon took 26 % of stage B with 64, 13 % with 1,024.
PRIMITIVE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}


class Verb(NamedTuple):
    """A verb.

    Attributes:
        target: `module:function`; its signature is the verb's arguments, its docstring their help, its `Example` the
            last line of it.
        help: What it does, in a line.
        positionals: Arguments given by position; with `+` the last one takes one or more values, with `?` none or one.
        lists: Options that take one or more values, as in `--labels cat dog`.
        flags: Options without a value, such as `--stream`.
        inlined: Dataclass arguments whose fields are options of their own: `--temperature`, a field of `sampling`. An
            argument of the verb with a field's name replaces that field.
    """

    target: str
    help: str
    positionals: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    inlined: tuple[str, ...] = ()


VERBS = {
    "train": Verb(
        "omni.commands.train:train",
        "Train all stages of a pipeline: omni train configs/chain.yaml",
        ("pipeline",),
        flags=("dry_run",),
    ),
    "adapt voice": Verb(
        "omni.commands.adapt_voice:adapt_voice",
        "Train a Talker with your own voice: omni adapt voice FOLDER --talker CHECKPOINT",
        ("folder",),
        flags=("prepare_only",),
    ),
    "sweep": Verb(
        "omni.commands.sweep:sweep",
        "Find the best values of a configuration: omni sweep configs/sweeps/learning_rate.yaml",
        ("file",),
        flags=("dry_run",),
    ),
    "generate": Verb(
        "omni.commands.generate:generate",
        "Continue a text with a Thinker, or answer questions about text, images and audio.",
        lists=("image", "audio", "video"),
        inlined=("sampling", "talker"),
    ),
    "chat": Verb(
        "omni.commands.chat:chat",
        "Converse about text, images and audio, in the terminal.",
        inlined=("sampling", "talker"),
    ),
    "serve": Verb(
        "omni.commands.serve:serve",
        "Serve models over HTTP, to clients of OpenAI's API.",
        lists=("allow_origins",),
        flags=("allow_urls", "compile", "int8"),
        inlined=("models", "sampling", "limits"),
    ),
    "transcribe": Verb(
        "omni.commands.transcribe:transcribe_files",
        "Transcribe audio files, or audio as it comes.",
        ("files+",),
        flags=("live", "overwrite"),
        inlined=("fusion",),
    ),
    "classify": Verb("omni.commands.classify:classify_files", "Classify images.", ("images+",), ("labels",)),
    "speak": Verb(
        "omni.commands.speak:speak_texts",
        "Speak texts with a trained Talker.",
        ("text?",),
        flags=("stream", "overwrite", "compile", "int8"),
    ),
    "codec encode": Verb(
        "omni.commands.codec:encode_files",
        "Encode audio files with a trained codec.",
        ("files+",),
        flags=("overwrite",),
    ),
    "codec decode": Verb(
        "omni.commands.codec:decode_files", "Decode codes to audio files.", ("files+",), flags=("overwrite",)
    ),
    "data world": Verb("omni.commands.data_world:write", "Write the embedded data set, the world.", inlined=("sizes",)),
    "data speech": Verb(
        "omni.commands.data_speech:write", "Write speech of given sentences in many voices.", ("texts+",)
    ),
    "data tokenizer": Verb("omni.commands.data_tokenizer:train_tokenizer", "Train a tokenizer on text."),
    "data ngram": Verb(
        "omni.commands.data_ngram:train_language_model", "Train a language model for speech recognition.", ("texts+",)
    ),
    "data prepare": Verb(
        "omni.commands.data_prepare:prepare",
        "Write manifests for a speech corpus, or conversations.",
        ("kind", "folder"),
    ),
    "data list": Verb(
        "omni.commands.data_list:list_sets", "List public data sets that are known, with their licences."
    ),
    "data fetch": Verb(
        "omni.commands.data_fetch:fetch", "Load public data sets beforehand.", ("names+",), flags=("pin",)
    ),
    "data check": Verb(
        "omni.commands.data_check:check",
        "Check data for faults that would harm training.",
        ("manifests+",),
        inlined=("speech", "sources"),
    ),
    "eval wer": Verb(
        "omni.commands.eval_wer:evaluate",
        "Count word errors, by speaker and length, or compare systems.",
        (),
        ("other",),
        ("repetition_guard", "greedy"),
        inlined=("fusion",),
    ),
    "eval lm": Verb(
        "omni.commands.eval_lm:evaluate_lm",
        "Choose the weights of a language model by word errors.",
        lists=("lm_weights", "word_bonuses"),
    ),
    "eval omni": Verb(
        "omni.commands.eval_omni:evaluate_accuracy",
        "Measure accuracy on conversations by task, and with images and audio blanked.",
        lists=("data",),
        flags=("int8",),
        inlined=("talker",),
    ),
    "export": Verb(
        "omni.commands.export:export",
        "Export a trained model to a folder that runs without omni, and compare it with omni.",
        ("checkpoint",),
        flags=("int8", "compiled"),
    ),
    "hub push": Verb(
        "omni.commands.hub:push", "Publish a trained model on the Hub.", ("checkpoint", "repository"), flags=("public",)
    ),
    "hub pull": Verb("omni.commands.hub:pull", "Fetch a published model.", ("repository",)),
    "plot": Verb(
        "omni.commands.plot:plot_runs",
        "Plot the curves of one or several runs.",
        ("runs+",),
        ("metrics",),
        ("overwrite",),
    ),
    "plan": Verb("omni.commands.plan:run", "Count a configuration's parameters and memory before training it."),
    "configs": Verb("omni.commands.configs:list_configs", "List the configurations that come with omni."),
    "configs copy": Verb(
        "omni.commands.configs:copy_configs", "Copy shipped configurations, to change them.", ("names+",)
    ),
    "bench thinker": Verb(
        "omni.commands.bench:thinker",
        "Race the Thinker against Hugging Face's Llama of the same size.",
        inlined=("race",),
    ),
    "bench nanogpt": Verb(
        "omni.commands.bench:nanogpt", "Race the Thinker to the loss of nanoGPT's character model.", inlined=("race",)
    ),
    "bench audio": Verb(
        "omni.commands.bench:audio", "Race the audio encoder against torchaudio's Conformer.", inlined=("race",)
    ),
    "bench vision": Verb(
        "omni.commands.bench:vision",
        "Race the vision encoder against torchvision's of the same size.",
        inlined=("race",),
    ),
    "bench retrieval": Verb(
        "omni.commands.bench:retrieval", "Race retrieval by captions against a small CLIP.", inlined=("race",)
    ),
    "bench speech": Verb(
        "omni.commands.bench:speech",
        "Time speech, and race the codec against EnCodec and Mimi.",
        inlined=("race",),
    ),
    "bench turns": Verb(
        "omni.commands.bench:turns", "Compare the detector of spoken turns with silero-vad.", inlined=("comparison",)
    ),
    "bench live": Verb(
        "omni.commands.bench:live",
        "Choose the look-ahead of live recognition by word errors.",
        inlined=("measurement",),
    ),
    "bench tempo": Verb(
        "omni.commands.bench:tempo", "Count word errors on speech whose tempo is changed.", inlined=("measurement",)
    ),
    "bench export": Verb(
        "omni.commands.bench:export", "Measure exported parts in every runtime of this machine.", inlined=("race",)
    ),
    "bench serve": Verb(
        "omni.commands.bench:serve",
        "Measure a running server: delays, throughput and memory by the number of clients.",
        lists=("clients",),
        inlined=("load",),
    ),
    "bench gpu": Verb(
        "omni.commands.bench:gpu",
        "Check a GPU: every stage, resuming, memory, MFU, decoding (has not run on a GPU yet).",
        inlined=("check",),
    ),
}
PARSING_VERBS = ("plan",)  # they parse their own arguments, those of `fit`


def main(args: list[str] | None = None) -> Any:
    """Runs the verb at the start of `args`, or of the command line.

    A user error prints one line on stderr and exits with code 2; `JSONARGPARSE_DEBUG=true` shows the traceback.
    """
    argv = sys.argv[1:] if args is None else list(args)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # models output any character; terminals may not support it
    for name, capacity in PRIMITIVE_CACHES.items():
        os.environ.setdefault(name, capacity)  # before the first operator; processes that are started inherit it
    try:
        try:
            result = _dispatch(argv)
        finally:
            sys.stdout.flush()  # here, where an error becomes one line
        return None if args is None else result  # the console script passes the result to sys.exit, as a status
    except UserError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        _discard_output()  # the reader, such as `head`, has closed the pipe
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        if error.filename is None:
            _discard_output()
        _fail(f"{error.filename or 'the output'}: {error.strerror}", 2)


def _discard_output() -> None:
    """Lets the interpreter flush standard output at its exit without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> Any:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return None
    if argv[0] == "--version":
        print(f"omni {omni.__version__}")
        return None
    if argv[0] == "--completion":
        print(completion({verb: _option_names(verb) for verb in (*TRAINER_VERBS, *VERBS)}, *argv[1:2]))
        return None
    if argv[0] in TRAINER_VERBS:
        from omni.training.lightning_cli import run

        return run(argv)
    for verbs in (VERBS, _added_verbs()):
        for words in (2, 1):
            if (verb := " ".join(argv[:words])) in verbs:
                return _call(verb, verbs[verb], argv[words:])
    known = sorted({*TRAINER_VERBS, *VERBS, *_added_verbs()})
    raise UserError(f"unknown verb {' '.join(argv[:2])!r}; the verbs are: {', '.join(known)}")


def _call(verb: str, what: Verb, argv: list[str]) -> Any:
    function = _function(what)
    if verb in PARSING_VERBS:
        return function(argv)
    with parser_errors(verb):
        parser = verb_parser(verb, what)
        arguments = parser.instantiate(parser.parse_args(argv)).as_dict()
    arguments.pop("config")
    for name in what.inlined:
        default = signature(function).parameters[name].default
        given = {field: arguments.pop(field) for field in _inlined_fields(function, name)}
        arguments[name] = replace(default, **given)
    return function(**arguments)


def verb_parser(verb: str, what: Verb) -> Any:
    """The parser of a verb's arguments: an `ArgumentParser` of jsonargparse that raises its errors.

    Args:
        verb: The verb's name, such as `data world`; not one of `TRAINER_VERBS` or `PARSING_VERBS`.
        what: Its row of the table.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"omni {verb}", exit_on_error=False)
    _add_arguments(parser, _function(what), what)
    return parser


def _option_names(verb: str) -> list[str]:
    """Options of a verb, of those of LightningCLI only the shared ones."""
    if verb in TRAINER_VERBS or verb in PARSING_VERBS:
        return ["--config", "--ckpt_path", "--print_config", "--help"]
    return [name for action in verb_parser(verb, VERBS[verb])._actions for name in action.option_strings]


def _function(verb: Verb) -> Any:
    module, _, name = verb.target.partition(":")
    return getattr(import_module(module), name)


def _add_arguments(parser: Any, function: Any, verb: Verb) -> None:
    """Adds a function's arguments to a parser."""
    from docstring_parser import parse

    docstring = parse(function.__doc__ or "")
    parser.description = "\n\n".join(filter(None, (docstring.short_description, docstring.long_description)))
    parser.epilog = "\n".join(f"Example: {example.description}" for example in docstring.examples) or None
    help_of = {parameter.arg_name: parameter.description for parameter in docstring.params}
    types = get_type_hints(function)
    for positional in verb.positionals:
        name = positional.rstrip("+?")
        if positional.endswith("+"):
            (item,) = get_args(types[name])
            parser.add_argument(name, nargs="+", type=item, help=help_of.get(name))
        elif positional.endswith("?"):
            parser.add_argument(name, nargs="?", type=types[name], default=None, help=help_of.get(name))
        else:
            parser.add_argument(name, type=types[name], help=help_of.get(name))
    skip = {*verb.lists, *verb.flags, *verb.inlined, *(name.rstrip("+?") for name in verb.positionals)}
    parser.add_function_arguments(function, skip=skip, as_group=False)
    for name in verb.flags:
        parser.add_argument(f"--{name}", action="store_true", help=help_of.get(name))
    for name in verb.lists:  # list[...] | None
        (item,) = get_args(get_args(types[name])[0])
        parser.add_argument(f"--{name}", nargs="+", type=item, default=None, help=help_of.get(name))
    for name in verb.inlined:
        default = signature(function).parameters[name].default
        inlined = {field: asdict(default)[field] for field in _inlined_fields(function, name)}
        others = {field.name for field in fields(default)} - inlined.keys()
        parser.add_class_arguments(types[name], skip=others, as_group=False, instantiate=False)
        parser.set_defaults(inlined)
    parser.add_argument("--config", action="config", help="A YAML file with values of these options.")


def _inlined_fields(function: Any, name: str) -> list[str]:
    """Fields of a dataclass argument, except those that are also arguments of the function."""
    arguments = signature(function).parameters
    return [field.name for field in fields(arguments[name].default) if field.name not in arguments]


def _added_verbs() -> dict[str, Verb]:
    """Verbs of other installed packages: their entry points in the group `omni.verbs`, `module:function` by name."""
    from importlib.metadata import entry_points

    return {each.name: Verb(each.value, f"Added by {each.value}.") for each in entry_points(group="omni.verbs")}


def verbs_by_kind() -> dict[str, dict[str, str]]:
    """The lines of `omni --help`: what each verb does, by kind of verb; verbs of other packages come last."""
    rows = {**TRAINER_VERBS, **{verb: what.help for verb, what in VERBS.items()}}
    kinds = {
        kind: {verb: line for word in words for verb, line in rows.items() if verb.split()[0] == word}
        for kind, words in KINDS.items()
    }
    added = {verb: what.help for verb, what in _added_verbs().items()}
    return {**kinds, "added": added} if added else kinds


def _help() -> str:
    kinds = verbs_by_kind()
    width = max(len(verb) for verbs in kinds.values() for verb in verbs)
    lines = ["usage: omni VERB [options]"]
    for kind, verbs in kinds.items():
        lines += ["", f"{kind}:", *(f"  {verb:<{width}}  {line}" for verb, line in verbs.items())]
    return "\n".join(
        [
            *lines,
            "",
            "`omni VERB --help` prints its options, `omni --completion SHELL` a script for bash, zsh or fish that "
            "completes them.",
        ]
    )


def _fail(message: str, code: int) -> None:
    if os.environ.get("JSONARGPARSE_DEBUG", "").lower() not in ("", "0", "false"):
        raise
    print(f"omni: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
