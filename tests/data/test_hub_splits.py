"""Names of data sets of the Hub, and the default split."""

import json

import pytest

from omni.data.loading.hub import HubName
from omni.data.text.corpus import open_corpus
from omni.errors import UserError


def test_a_name_has_up_to_three_parts_a_revision_and_rows():
    assert HubName.parse("hub:a/b") == ("a/b", "", "", "", None)
    assert HubName.parse("hub:a/b:c") == ("a/b", "c", "", "", None)
    assert HubName.parse("hub:a/b@main::d[:5]") == ("a/b", "", "d", "main", (0, 5))
    for wrong in ("hub:", "hub::c", "hub:a/b:c:d:e"):
        with pytest.raises(UserError, match=f"'{wrong}' does not name a data set: write hub:OWNER/NAME"):
            HubName.parse(wrong)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_the_validation_split_is_found_under_all_its_names(tmp_path, name, streaming):
    splits = {"train": "for training", name: "for validation"}
    configs = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{configs}---\n")
    for split, text in splits.items():
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")

    def read(entry: str, split: str) -> list[str]:
        (source,) = open_corpus([entry], split=split, cache_dir=tmp_path / "cache", streaming=streaming)
        return list(source.read())

    assert read(f"hub:{tmp_path}", "train") == ["for training"]
    assert read(f"hub:{tmp_path}", "val") == ["for validation"]
    assert read(f"hub:{tmp_path}::{name}", "train") == ["for validation"]
    with pytest.raises(UserError, match="cannot be loaded"):
        read(f"hub:{tmp_path}", "test")
