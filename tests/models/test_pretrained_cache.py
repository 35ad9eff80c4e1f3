"""The cache of a pretrained model is passed under the name that the installed library uses."""

import pytest

from omni.models.pretrained.cache import cache_argument, has_cache


def old(inputs_embeds=None, past_key_values=None, use_cache=None): ...


def new(inputs_embeds=None, cache=None, use_cache=None): ...


def both(inputs_embeds=None, past_key_values=None, cache=None): ...


@pytest.mark.parametrize(("forward", "name"), [(old, "past_key_values"), (new, "cache"), (both, "cache")])
def test_both_names_are_found(forward, name):
    assert cache_argument(forward) == name


def test_a_model_without_a_cache_is_refused():
    with pytest.raises(ValueError, match="takes no cache"):
        cache_argument(lambda inputs_embeds: None)


def test_both_names_count_as_cached():
    assert has_cache({"cache": object()})
    assert has_cache({"past_key_values": object()})
    assert not has_cache({"past_key_values": None, "use_cache": False})
