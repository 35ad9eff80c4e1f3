"""Definitions of pipelines, and their errors."""

from pathlib import Path

import pytest
from toy_chain import FIRST, NAME, SECOND, stage, two, written
from toy_commands import CONFIGS

from omni.cli import main
from omni.pipeline.definition import Target, read_pipeline


class TestDescription:
    def test_order_follows_the_named_checkpoints(self, workplace):
        pipeline = read_pipeline(written({"third": stage(after=["again"], overrides={NAME: "third"}), **two()}))
        assert list(pipeline.stages) == ["thinker", "again", "third"]
        assert [each.needs for each in pipeline.stages.values()] == [(), ("thinker",), ("again",)]
        assert pipeline.stages["again"].folder == Path("lightning_logs/again")

    @pytest.mark.parametrize("name", ["chain.yaml", "world/chain.yaml", "world/smoke.yaml", "world/speedrun.yaml"])
    def test_shipped_pipelines_are_valid(self, name, workplace):
        pipeline = read_pipeline(CONFIGS / name)
        needs = {name: set(each.needs) for name, each in pipeline.stages.items()}
        assert needs["talker"] == {"codec", "audio"}
        assert needs["omni"] == {"thinker", "audio", "vision"}
        assert needs["thinker"] == needs["audio"] == needs["vision"] == set()
        assert list(pipeline.stages)[-1] == "omni"

    @pytest.mark.parametrize("name", ["voice.yaml", "voice/base.yaml"])
    def test_a_voice_trains_its_codec_first(self, name, workplace):
        for run in ("world/audio", "world/codec", "world/talker", "world/vocoder", "bench/synthetic"):
            (workplace / "lightning_logs" / run).mkdir(parents=True)
            (workplace / "lightning_logs" / run / "best.ckpt").touch()
        pipeline = read_pipeline(CONFIGS / name)
        assert {each: set(stage.needs) for each, stage in pipeline.stages.items() if each != "vocoder"} == {
            "codec": set(),
            "talker": {"codec"},
        }

    def test_a_stage_may_name_a_shipped_configuration_and_a_local_file_wins(self, workplace):
        name = "world/thinker.yaml"
        chain = written({"a": stage(config=name)})
        assert read_pipeline(chain).stages["a"].arguments[1] == str(CONFIGS / name)
        Path("world").mkdir()
        Path(name).write_text(f"base: {name}", encoding="utf-8")  # the shipped configuration
        assert read_pipeline(chain).stages["a"].arguments[1] == name

    def test_goal(self):
        assert Target("a", below=0.2).reached({"a": 0.1}) is True
        assert Target("a", above=0.2).reached({"a": 0.1}) is False
        assert Target("a", below="b").reached({"a": 0.1, "b": 0.05}) is False
        assert Target("a").reached({"a": 0.1}) is Target("a", below=1).reached({}) is None


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ({}, "has no stages"),
        ({"a": "thinker.yaml"}, "stage a: is 'thinker.yaml': give it at least"),
        ({"a": stage(metric=None)}, "stage a: the following arguments are required: metric"),
        ({"a": stage(befor=["b"])}, "stage a: Option 'befor' is not accepted"),
        ({"a": stage(below=[3])}, "stage a: below: expected int or float or str, got [3]"),
        ({"a": stage(after="b")}, "stage a: after: expected list, got b"),
        ({"a": stage(config="nowhere.yaml")}, "stage a: its config nowhere.yaml does not exist"),
        ({"a": stage(overrides={"trainer.max_stepz": 3})}, "stage a: "),
        ({"a": stage(after=["b"])}, "stage a: after names b, which is not a stage of this pipeline"),
        ({"a": stage(overrides=SECOND)}, f"stage a: init_from.thinker is {FIRST}, which does not exist and"),
        ({"a": stage(), "b": stage()}, "stage b: writes to lightning_logs/thinker, as a does"),
        ({"a": stage(after=["a"])}, "dependency cycle: a -> a"),
        (
            {"again": two()["again"], "thinker": stage(after=["again"])},
            "dependency cycle: again -> thinker -> again",
        ),
        (
            {**two(), "again": stage(overrides={**SECOND, "data.init_args.tokenizer": "bpe"})},
            "stage again: starts from the Thinker of stage thinker, which is trained with the tokenizer bytes, but its "
            "data is tokenized with of again",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_errors_are_reported_before_anything_runs(stages, complaint, workplace, fails):
    assert complaint in fails(main, ["train", str(written(stages))])
    assert not Path("lightning_logs/thinker").exists()


def test_files_that_are_not_pipelines(workplace, fails):
    assert "cannot be read" in fails(main, ["train", "nowhere.yaml"])
    Path("odd.yaml").write_text("a: [", encoding="utf-8")
    assert "is not valid YAML" in fails(main, ["train", "odd.yaml"])
    assert "--jobs is 0" in fails(main, ["train", "odd.yaml", "--jobs", "0"])
