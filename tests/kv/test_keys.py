from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.errors import InvalidKeyError
from reactstate.kv.keys import StateKey

part = st.text(st.sampled_from("ab%/25Fé"), max_size=4)


@given(part, part, part, part)
def test_a_key_is_found_again_from_its_text(namespace, tenant, kind, id_):
    key = StateKey(namespace, tenant, kind, id_)
    found = StateKey.parse(str(key))
    assert (found.namespace, found.tenant, found.kind, found.id) == (namespace, tenant, kind, id_)
    assert found == key
    assert hash(found) == hash(key)
    assert str(key).startswith(StateKey.prefix(namespace, tenant, kind))


@given(st.tuples(part, part, part, part), st.tuples(part, part, part, part))
def test_two_keys_are_equal_when_their_parts_are(one, other):
    assert (StateKey(*one) == StateKey(*other)) == (one == other)


def test_parts_that_are_no_text_are_refused():
    for parts in ((None, "", "", ""), ("", 5, "", ""), ("", "", b"", ""), ("", "", "", object())):
        with pytest.raises(InvalidKeyError, match="text"):
            StateKey(*parts)
    with pytest.raises(InvalidKeyError, match="text"):
        StateKey.prefix("shop", None)
    with pytest.raises(InvalidKeyError, match="three"):
        StateKey.prefix("a", "b", "c", "d")


def test_a_text_that_is_no_key_is_refused():
    for text in ("", "a/b/c", "a/b/c/d/e", "a/b/c/%2f", "a/b/c/%41"):
        with pytest.raises(InvalidKeyError):
            StateKey.parse(text)
