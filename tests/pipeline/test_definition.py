"""Chains: what they are made of, and what is wrong with them."""

from pathlib import Path

import pytest
from conftest import CONFIGS
from toy_chain import FIRST, NAME, SECOND, stage, two, written

from omni.cli import main
from omni.pipeline.definition import Target, read_pipeline


class TestDescription:
    def test_order_follows_from_the_checkpoints_that_are_named(self, workplace):
        chain = read_pipeline(written({"third": stage(after=["again"], overrides={NAME: "third"}), **two()}))
        assert list(chain.links) == ["thinker", "again", "third"]
        assert [link.needs for link in chain.links.values()] == [(), ("thinker",), ("again",)]
        assert chain.links["again"].folder == Path("lightning_logs/again")

    @pytest.mark.parametrize("name", ["chain.yaml", "world/chain.yaml", "world/smoke.yaml"])
    def test_chains_that_are_shipped_hold_together(self, name, workplace):
        chain = read_pipeline(CONFIGS / name)
        needs = {name: set(link.needs) for name, link in chain.links.items()}
        assert needs["talker"] == {"codec", "audio"}
        assert needs["omni"] == {"thinker", "audio", "vision"}
        assert needs["thinker"] == needs["audio"] == needs["vision"] == set()
        assert list(chain.links)[-1] == "omni"

    def test_a_stage_may_name_a_shipped_configuration_and_a_local_file_wins(self, workplace):
        name = "world/thinker.yaml"
        chain = written({"a": stage(config=name)})
        assert read_pipeline(chain).links["a"].arguments[1] == str(CONFIGS / name)
        Path("world").mkdir()
        Path(name).write_text(f"base: {name}", encoding="utf-8")  # the shipped one
        assert read_pipeline(chain).links["a"].arguments[1] == name

    def test_goal(self):
        assert Target("a", below=0.2).reached({"a": 0.1}) is True
        assert Target("a", above=0.2).reached({"a": 0.1}) is False
        assert Target("a", below="b").reached({"a": 0.1, "b": 0.05}) is False
        assert Target("a").reached({"a": 0.1}) is Target("a", below=1).reached({}) is None


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ({}, "has no stages"),
        ({"a": "thinker.yaml"}, "stage a is 'thinker.yaml'"),
        ({"a": stage(metric=None)}, "stage a has no 'metric'"),
        ({"a": stage(befor=["b"])}, "stage a has 'befor', which means nothing"),
        ({"a": stage(below=[3])}, "below is [3]: give a number"),
        ({"a": stage(after="b")}, "after is 'b': give a list"),
        ({"a": stage(config="nowhere.yaml")}, "stage a: its config nowhere.yaml does not exist"),
        ({"a": stage(overrides={"trainer.max_stepz": 3})}, "stage a: "),
        ({"a": stage(after=["b"])}, "stage a comes after b, and there is no such stage"),
        ({"a": stage(overrides=SECOND)}, f"stage a: init_from.thinker is {FIRST}, which is not there"),
        ({"a": stage(), "b": stage()}, "stage b: writes to lightning_logs/thinker, as a does"),
        ({"a": stage(after=["a"])}, "goes round in a circle: a after a"),
        (
            {"again": two()["again"], "thinker": stage(after=["again"])},
            "goes round in a circle: again after thinker after again",
        ),
        (
            {**two(), "again": stage(overrides={**SECOND, "data.init_args.tokenizer": "bpe"})},
            "stage again begins with the Thinker of stage thinker, which is trained on the tokens of bytes, and its "
            "data has those of its own (again)",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_mistakes_are_told_before_anything_runs(stages, complaint, workplace, fails):
    assert complaint in fails(main, ["train", str(written(stages))])
    assert not Path("lightning_logs/thinker").exists()


def test_files_that_are_no_chain(workplace, fails):
    assert "cannot be read" in fails(main, ["train", "nowhere.yaml"])
    Path("odd.yaml").write_text("a: [", encoding="utf-8")
    assert "is no YAML" in fails(main, ["train", "odd.yaml"])
    assert "--jobs is 0" in fails(main, ["train", "odd.yaml", "--jobs", "0"])
