from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.errors import PatchError
from reactstate.state.patch import apply_patch, diff, documents_equal, escape, invert, join, replay, split

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([0.0, -0.0, 1.0, 0.5, math.nan, math.inf])
    | st.sampled_from(["", "a", "~", "/", "~1", "\ud800", "b"])
)
KEYS = st.sampled_from(["a", "b", "c", "", "/", "~", "~0", "0", "1", "-"])
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)
SMALL_LISTS = st.lists(st.sampled_from([0, 1, 2, True, 1.0, "a", None, [1], {"a": 1}, {"a": 2}]), max_size=20)


def frozen(document):
    return repr(document)


def pointers(document, prefix=()):
    yield prefix
    if isinstance(document, dict):
        for key, value in document.items():
            yield from pointers(value, (*prefix, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from pointers(value, (*prefix, index))


def at(document, tokens):
    for token in tokens:
        document = document[token]
    return document


@st.composite
def patches(draw, document, length=4):
    """A patch that fits *document*, of all operations, made against a naive model of RFC 6902."""
    current = copy.deepcopy(document)
    patch = []
    for _ in range(draw(st.integers(0, length))):
        everywhere = list(pointers(current))
        source = draw(st.sampled_from(everywhere))
        value = draw(DOCUMENTS)
        containers = [p for p in everywhere if isinstance(at(current, p), (dict, list))]
        places = [()]
        if containers:
            into = draw(st.sampled_from(containers))
            holder = at(current, into)
            if isinstance(holder, dict):
                places.append((*into, draw(KEYS)))
            else:
                places.append((*into, draw(st.integers(0, len(holder)))))
                places.append((*into, "-"))
        place = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]))
        operation = {"op": kind, "path": join(source)}
        if kind == "test":
            operation["value"] = copy.deepcopy(at(current, source))
        elif kind == "replace":
            operation["value"] = value
        elif kind == "add":
            operation |= {"path": join(place), "value": value}
        elif kind in {"move", "copy"}:
            operation |= {"path": join(place), "from": join(source)}
        try:
            current = model(current, operation)
        except (KeyError, IndexError, TypeError, ValueError):
            continue
        patch.append(operation)
    return patch


def model(document, operation):
    """RFC 6902, word for word, on deep copies."""
    document = copy.deepcopy(document)
    kind, path = operation["op"], operation["path"]
    value = copy.deepcopy(operation.get("value"))
    if kind == "test":
        return document
    if kind in {"copy", "move"}:
        if kind == "move" and path.startswith(operation["from"] + "/"):
            raise ValueError
        value = copy.deepcopy(at(document, real(document, operation["from"])))
        if kind == "move":
            document = model(document, {"op": "remove", "path": operation["from"]})
    tokens = split(path)
    if not tokens:
        return None if kind == "remove" else value
    *way, last = real(document, path, new=True)
    parent = at(document, way)
    if isinstance(parent, list):
        if kind == "remove":
            del parent[last]
        elif kind == "replace":
            parent[last] = value
        elif last <= len(parent):
            parent.insert(last, value)
        else:
            raise IndexError
    elif isinstance(parent, dict):
        if kind == "remove":
            del parent[last]
        else:
            parent[last] = value
    else:
        raise TypeError
    return document


def real(document, pointer, *, new=False):
    way = []
    tokens = split(pointer)
    for token in tokens:
        key = token
        if isinstance(document, list):
            key = len(document) if token == "-" else int(token)
        way.append(key)
        if not (new and len(way) == len(tokens)):
            document = document[key]
    return way


# --- pointers ---------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=5))
def test_a_pointer_splits_into_the_tokens_it_was_joined_from(tokens):
    assert split(join(tokens)) == tokens


@given(st.text())
def test_an_escaped_token_holds_no_separator(token):
    assert "/" not in escape(token)


def test_pointers_of_rfc_6901_name_the_parts_it_says():
    document = {
        "foo": ["bar", "baz"],
        "": 0,
        "a/b": 1,
        "c%d": 2,
        "e^f": 3,
        "g|h": 4,
        "i\\j": 5,
        'k"l': 6,
        " ": 7,
        "m~n": 8,
    }
    expected = {"": document, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2, "/e^f": 3}
    expected |= {"/g|h": 4, "/i\\j": 5, '/k"l': 6, "/ ": 7, "/m~0n": 8}
    for pointer, value in expected.items():
        assert apply_patch(document, [{"op": "test", "path": pointer, "value": value}]) is document
        assert join(split(pointer)) == pointer


def test_indexes_are_joined_as_they_are():
    assert join(["a", 0, "-"]) == "/a/0/-"


@pytest.mark.parametrize("pointer", ["a", "~2", "/~", "/~2", "/a~", "/~01~x", None, 1, ["a"]])
def test_a_malformed_pointer_is_a_patch_error(pointer):
    with pytest.raises(PatchError):
        split(pointer)


# --- equality ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True), (1, 1.0), (True, 1.0), (0, False), (0.0, -0.0), (None, False), (None, 0), ("1", 1), ([], {}), ([], None),
        ({}, None), ([1], [True]), ({"a": 1}, {"a": 1.0}), ({"a": None}, {}), ({"a": None}, {"b": None}), ([1], [1, 2]),
        (math.nan, 1.0), (math.nan, None), ([[]], [{}]), ([0.0], [-0.0]), ({"a": []}, {"a": None}), ({"a": {}}, {"a": 1}),
        ([1], 1), ({}, 1), ("", []),
    ],
)  # fmt: skip
def test_documents_of_different_kinds_or_values_are_not_equal_and_differ(a, b):
    for x, y in ((a, b), (b, a)):
        assert not documents_equal(x, y)
        assert diff(x, y) != []
        assert documents_equal(apply_patch(x, diff(x, y)), y)
        with pytest.raises(PatchError):
            apply_patch(x, [{"op": "test", "path": "", "value": y}])


@given(DOCUMENTS)
def test_a_document_equals_its_copy_whatever_the_order_of_keys(document):
    def reorder(part):
        if isinstance(part, dict):
            return {key: reorder(part[key]) for key in reversed(part)}
        return [reorder(element) for element in part] if isinstance(part, list) else part

    other = reorder(copy.deepcopy(document))
    assert documents_equal(document, other)
    assert diff(document, other) == []


def test_two_nans_are_equal():
    assert documents_equal([float("nan")], [float("nan")])
    assert diff([float("nan")], [float("nan")]) == []


@given(DOCUMENTS, DOCUMENTS)
def test_equality_agrees_with_an_empty_diff(a, b):
    assert documents_equal(a, b) == (diff(a, b) == [])


def test_any_depth_is_safe():
    def nest(bottom, depth=20_000):
        document = bottom
        for level in range(depth):
            document = {"a": document} if level % 2 else [document]
        return document

    a, b = nest(1), nest(2)
    patch = diff(a, b)
    assert len(patch) == 1
    assert documents_equal(apply_patch(a, patch), b)
    assert not documents_equal(a, b)
    root, inverse = replay({}, [{"op": "add", "path": "/x", "value": a}])
    assert documents_equal(root["x"], a)
    assert root["x"] is not a
    assert inverse == [{"op": "remove", "path": "/x"}]
    assert documents_equal(apply_patch([0, a, 0], diff([0, a, 0], [b, a])), [b, a])


# --- diff -------------------------------------------------------------------------------------------------------


@given(DOCUMENTS, DOCUMENTS)
def test_applying_the_diff_gives_the_other_document(a, b):
    before = frozen(a), frozen(b)
    assert documents_equal(apply_patch(a, diff(a, b)), b)
    assert (frozen(a), frozen(b)) == before


@given(SMALL_LISTS, SMALL_LISTS)
def test_lists_with_repeated_elements_are_led_from_one_to_the_other(a, b):
    assert documents_equal(apply_patch(a, diff(a, b)), b)


@given(st.data())
def test_an_edited_document_is_led_to_and_back(data):
    document = data.draw(DOCUMENTS)
    other = document
    for operation in data.draw(patches(document)):
        other = model(other, operation)
    assert documents_equal(apply_patch(document, diff(document, other)), other)
    assert documents_equal(apply_patch(other, diff(other, document)), document)


@given(st.lists(st.integers(0, 400), min_size=100, max_size=100), st.data())
def test_a_few_edits_of_a_long_list_are_a_short_patch(numbers, data):
    edited = list(numbers)
    edits = data.draw(st.integers(1, 4))
    for _ in range(edits):
        index = data.draw(st.integers(0, len(edited) - 1))
        if data.draw(st.booleans()):
            del edited[index]
        else:
            edited.insert(index, data.draw(st.integers(0, 400)))
    patch = diff(numbers, edited)
    assert apply_patch(numbers, patch) == edited
    assert len(patch) <= 2 * edits


@pytest.mark.parametrize(
    ("a", "b", "patch"),
    [
        (None, {"n": 1}, [{"op": "add", "path": "", "value": {"n": 1}}]),
        ({"n": 1}, None, [{"op": "replace", "path": "", "value": None}]),
        ({"n": 1}, {"n": 2}, [{"op": "replace", "path": "/n", "value": 2}]),
        ({}, {"a/b": 1}, [{"op": "add", "path": "/a~1b", "value": 1}]),
        ({"a": 1, "b": 2}, {"b": 2}, [{"op": "remove", "path": "/a"}]),
        ({"x": {"a": 1, "b": 2, "c": 3}}, {"x": {}}, [{"op": "replace", "path": "/x", "value": {}}]),
        ({"x": {"a": {"b": [1, 2]}}}, {"x": {"a": {"b": [1, 3]}}}, [{"op": "replace", "path": "/x/a/b/1", "value": 3}]),
        ([1, 2, 3, 4], [2, 3, 4, 5], [{"op": "add", "path": "/4", "value": 5}, {"op": "remove", "path": "/0"}]),
        ([1, 2, 3], [1, 3], [{"op": "remove", "path": "/1"}]),
        ([1, 3], [1, 2, 3], [{"op": "add", "path": "/1", "value": 2}]),
        ([], [1, 2], [{"op": "add", "path": "/0", "value": 1}, {"op": "add", "path": "/1", "value": 2}]),
        ([1, 2, 3], [4, 5, 6], [{"op": "replace", "path": "", "value": [4, 5, 6]}]),
        ([1, 2, 3], [], [{"op": "replace", "path": "", "value": []}]),
        ([{"n": 1}, {"n": 2}], [{"n": 3}, {"n": 4}], [
            {"op": "replace", "path": "/0/n", "value": 3}, {"op": "replace", "path": "/1/n", "value": 4}]),
        ([{"n": 1}, {"n": 2}, {"n": 3}, 0], [{"n": 2}, {"n": 3}, 5, 0], [
            {"op": "add", "path": "/3", "value": 5}, {"op": "remove", "path": "/0"}]),
        ([1, 2, 3, 4], [4, 5, 6, 1], [{"op": "replace", "path": "", "value": [4, 5, 6, 1]}]),
        ([2**70, 1, 2], [1, 2], [{"op": "remove", "path": "/0"}]),
        ([0, [2**70], 1, 5], [1, [2**70], 5, 9], [
            {"op": "replace", "path": "/0", "value": 1}, {"op": "replace", "path": "/2", "value": 5},
            {"op": "replace", "path": "/3", "value": 9}]),
        (["on", "off", "off", "on", "off", "on", "on"], ["off", "off", "on", "off", "on", "on", "off"], [
            {"op": "add", "path": "/7", "value": "off"}, {"op": "remove", "path": "/0"}]),
    ],
)  # fmt: skip
def test_the_diff_is_short_and_readable(a, b, patch):
    made = diff(a, b)
    assert documents_equal(apply_patch(a, made), b)
    assert made == patch


def test_shared_parts_are_not_looked_into():
    class Untouchable(dict):
        def __getattribute__(self, name):
            raise AssertionError(name)

    part = Untouchable()
    assert diff({"part": part, "n": 1}, {"part": part, "n": 2}) == [{"op": "replace", "path": "/n", "value": 2}]
    assert diff([part, 1], [part, 2]) == [{"op": "replace", "path": "/1", "value": 2}]
    assert diff(part, part) == diff(1, 1) == []


def test_kept_records_are_never_written_again():
    records = [{"id": n, "text": "x" * 50} for n in range(200)]
    assert len(diff(records, records[150:])) == 150
    assert len(diff(records, records[:20])) == 180


def test_scattered_edits_of_a_long_list_stay_scattered():
    before = [{"id": n} for n in range(3000)]
    after = [copy.copy(record) for record in before if record["id"] % 10]
    patch = diff(before, after)
    assert len(patch) == 300
    assert {operation["op"] for operation in patch} == {"remove"}
    bits = [n * n % 7 < 3 for n in range(3000)]
    edited = [*bits[:200], "x", *bits[203:1000], *bits[1003:2500], None, *bits[2500:]]
    assert documents_equal(apply_patch(bits, diff(bits, edited)), edited)
    assert documents_equal(apply_patch(edited, diff(edited, bits)), bits)


def test_a_long_run_of_repeated_elements_is_compared_in_place():
    unique = [f"u{n}" for n in range(200)]
    a = [0, *[float("0.5") for _ in range(98)], 0, *unique]
    b = ["new", 5, *[float("0.5") for _ in range(98)], 6, *unique]
    patch = diff(a, b)
    assert documents_equal(apply_patch(a, patch), b)
    assert len(patch) == 4


# --- apply, invert, replay --------------------------------------------------------------------------------------


@given(st.data())
def test_apply_agrees_with_the_rfc_and_changes_neither_argument(data):
    document = data.draw(DOCUMENTS)
    patch = data.draw(patches(document))
    before = frozen(document), frozen(patch)
    expected = document
    for operation in patch:
        expected = model(expected, operation)
    assert documents_equal(apply_patch(document, patch), expected)
    assert (frozen(document), frozen(patch)) == before


@given(st.data())
def test_the_inverse_leads_back(data):
    document = data.draw(DOCUMENTS)
    patch = data.draw(patches(document))
    before = frozen(document), frozen(patch)
    inverse = invert(document, patch)
    changed = apply_patch(document, patch)
    assert documents_equal(apply_patch(changed, inverse), document)
    again = invert(changed, inverse)
    assert documents_equal(apply_patch(document, again), changed)
    assert (frozen(document), frozen(patch)) == before


@given(st.data())
def test_replay_agrees_with_apply_and_leaves_every_patch_and_inverse_alone(data):
    document = data.draw(DOCUMENTS)
    root = copy.deepcopy(document)
    record = []
    for _ in range(data.draw(st.integers(1, 4))):
        patch = data.draw(patches(document))
        expected, expected_inverse = apply_patch(document, patch), invert(document, patch)
        root, inverse = replay(root, patch)
        assert documents_equal(root, expected)
        assert documents_equal(inverse, expected_inverse)
        record.append((patch, inverse, frozen(patch), frozen(inverse), document))
        document = expected
    for patch, inverse, patch_was, inverse_was, _ in record:
        assert (frozen(patch), frozen(inverse)) == (patch_was, inverse_was)
    for _, inverse, _, inverse_was, before in reversed(record):
        root, _ = replay(root, inverse)
        assert documents_equal(root, before)
        assert frozen(inverse) == inverse_was


def test_replay_changes_in_place_and_apply_shares_what_it_does_not_touch():
    document = {"a": {"n": 1}, "b": [1, 2]}
    changed = apply_patch(document, [{"op": "replace", "path": "/a/n", "value": 2}])
    assert changed["b"] is document["b"]
    assert document["a"]["n"] == 1
    inner = document["a"]
    root, _ = replay(document, [{"op": "replace", "path": "/a/n", "value": 2}])
    assert root is document
    assert inner["n"] == 2


def test_a_copied_part_is_changed_in_one_place_only():
    patch = [
        {"op": "replace", "path": "/a/n", "value": 2},
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "replace", "path": "/b/n", "value": 3},
        {"op": "replace", "path": "/a/n", "value": 4},
    ]
    assert apply_patch({"a": {"n": 1}}, patch) == {"a": {"n": 4}, "b": {"n": 3}}
    assert replay({"a": {"n": 1}}, patch)[0] == {"a": {"n": 4}, "b": {"n": 3}}


def test_an_inserted_value_is_not_changed_by_later_operations():
    value = {"n": [1]}
    patch = [{"op": "add", "path": "/a", "value": value}, {"op": "add", "path": "/a/n/-", "value": 2}]
    assert apply_patch({}, patch) == {"a": {"n": [1, 2]}}
    assert replay({}, patch)[0] == {"a": {"n": [1, 2]}}
    assert value == {"n": [1]}


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/a/b", "/a"),
        ("/a/b", ""),
        ("/l/0", "/l/1/x"),
        ("/l/1", "/l/0/x"),
        ("/l/0", "/l/-"),
        ("/l/0", "/l"),
        ("/a", "/a"),
    ],
)
def test_a_move_can_be_undone_though_it_shifts_or_overwrites_its_own_way(source, path):
    document = {"a": {"b": {"n": 1}, "c": 2}, "l": [{"x": [1]}, {"x": 0}, {"x": 1}]}
    patch = [{"op": "move", "from": source, "path": path}]
    changed = apply_patch(document, patch)
    assert documents_equal(apply_patch(changed, invert(document, patch)), document)
    root, inverse = replay(copy.deepcopy(document), patch)
    assert documents_equal(root, changed)
    assert documents_equal(replay(root, inverse)[0], document)


# --- RFC 6902, appendix A ---------------------------------------------------------------------------------------

EXAMPLES = [
    ("A.1", {"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ("A.2", {"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ("A.3", {"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ("A.4", {"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    (
        "A.5",
        {"baz": "qux", "foo": "bar"},
        [{"op": "replace", "path": "/baz", "value": "boo"}],
        {"baz": "boo", "foo": "bar"},
    ),
    (
        "A.6",
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        "A.7",
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    (
        "A.8",
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ("A.9", {"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], None),
    (
        "A.10",
        {"foo": "bar"},
        [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
        {"foo": "bar", "child": {"grandchild": {}}},
    ),
    ("A.11", {"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
    ("A.12", {"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], None),
    ("A.14", {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ("A.15", {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": "10"}], None),
    (
        "A.16",
        {"foo": ["bar"]},
        [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
        {"foo": ["bar", ["abc", "def"]]},
    ),
]


@pytest.mark.parametrize(("document", "patch", "result"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES])
def test_examples_of_rfc_6902(document, patch, result):
    if result is None:
        for use in (apply_patch, invert, replay):
            with pytest.raises(PatchError):
                use(document, patch)
    else:
        assert apply_patch(document, patch) == result
        assert apply_patch(result, invert(document, patch)) == document
        assert replay(copy.deepcopy(document), patch)[0] == result


# --- errors -----------------------------------------------------------------------------------------------------

DOCUMENT = {"a": {"b": 1}, "l": [1, 2], "s": "text"}


@pytest.mark.parametrize(
    "operation",
    [
        None, 1, "add", [], {}, {"op": "add"}, {"op": "add", "path": "/x"}, {"path": "/x", "value": 1},
        {"op": "replace", "path": "/a"}, {"op": "test", "path": "/a"}, {"op": "move", "path": "/a"}, {"op": "copy", "path": "/a"},
        {"op": "merge", "path": "/a", "value": 1}, {"op": ["add"], "path": "/a", "value": 1}, {"op": "ADD", "path": "/a", "value": 1},
        {"op": "add", "path": None, "value": 1}, {"op": "add", "path": "x", "value": 1}, {"op": "add", "path": "/~2", "value": 1},
        {"op": "move", "path": "/x", "from": 1}, {"op": "move", "path": "/x", "from": "a"}, {"op": "copy", "path": "/x", "from": "/~"},
        {"op": "add", "path": "/l/3", "value": 1}, {"op": "add", "path": "/l/01", "value": 1}, {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": "/l/-1", "value": 1}, {"op": "add", "path": "/l/1e0", "value": 1}, {"op": "add", "path": "/l/", "value": 1},
        {"op": "add", "path": "/l/\u0661", "value": 1}, {"op": "add", "path": "/l/\u00b2", "value": 1}, {"op": "add", "path": "/l/+1", "value": 1},
        {"op": "add", "path": "/l/" + "9" * 5000, "value": 1}, {"op": "replace", "path": "/l/2", "value": 1},
        {"op": "replace", "path": "/l/-", "value": 1}, {"op": "remove", "path": "/l/-"}, {"op": "remove", "path": "/l/2"},
        {"op": "test", "path": "/l/-", "value": 1}, {"op": "copy", "from": "/l/-", "path": "/x"}, {"op": "add", "path": "/l/-/x", "value": 1},
        {"op": "remove", "path": "/x"}, {"op": "replace", "path": "/x", "value": 1}, {"op": "add", "path": "/x/y", "value": 1},
        {"op": "add", "path": "/s/0", "value": 1}, {"op": "add", "path": "/s/0/x", "value": 1}, {"op": "remove", "path": "/a/b/c"},
        {"op": "test", "path": "/s/0", "value": "t"}, {"op": "test", "path": "/x", "value": None},
        {"op": "move", "from": "/a", "path": "/a/x"}, {"op": "move", "from": "", "path": "/a"}, {"op": "move", "from": "/x", "path": "/y"},
        {"op": "move", "from": "/x", "path": "/x"}, {"op": "move", "from": "/l/0", "path": "/l/2"}, {"op": "copy", "from": "/x", "path": "/y"},
        {"op": "move", "from": "/a", "path": "/x/y"},
    ],
)  # fmt: skip
def test_an_operation_that_is_malformed_or_does_not_fit_is_a_patch_error_and_changes_nothing(operation):
    document = copy.deepcopy(DOCUMENT) | {"n": 0}
    patch = [{"op": "replace", "path": "/n", "value": 1}, operation]
    for use in (apply_patch, invert):
        with pytest.raises(PatchError, match="operation 1 of the patch"):
            use(document, patch)
        assert document == DOCUMENT | {"n": 0}
    with pytest.raises(PatchError):
        replay(document, patch)


@pytest.mark.parametrize("patch", [None, {}, "", "[]", ({"op": "remove", "path": ""},), 1])
def test_a_patch_that_is_not_a_list_is_a_patch_error(patch):
    for use in (apply_patch, invert, replay):
        with pytest.raises(PatchError, match="list of operations"):
            use({}, patch)


def test_an_error_names_the_operation_but_not_its_value():
    with pytest.raises(PatchError) as caught:
        apply_patch({}, [{"op": "replace", "path": "/password", "value": "hunter2"}])
    assert "/password" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, PatchError)


def test_the_root_can_be_added_replaced_removed_tested_copied_and_moved_to():
    assert apply_patch(None, [{"op": "add", "path": "", "value": {"n": 1}}]) == {"n": 1}
    assert apply_patch({"n": 1}, [{"op": "replace", "path": "", "value": [1]}]) == [1]
    assert apply_patch({"n": 1}, [{"op": "remove", "path": ""}]) is None
    assert apply_patch({"n": 1}, [{"op": "test", "path": "", "value": {"n": 1}}]) == {"n": 1}
    assert apply_patch({"n": 1}, [{"op": "copy", "from": "", "path": "/copy"}]) == {"n": 1, "copy": {"n": 1}}
    assert apply_patch({"n": {"m": 1}}, [{"op": "copy", "from": "/n", "path": ""}]) == {"m": 1}
    assert apply_patch({"n": {"m": 1}}, [{"op": "move", "from": "/n", "path": ""}]) == {"m": 1}
    assert apply_patch(None, [{"op": "remove", "path": ""}]) is None


@given(DOCUMENTS)
def test_the_diff_survives_json(document):
    if "\\ud800" in json.dumps(document) or "Infinity" in json.dumps(document) or "NaN" in json.dumps(document):
        return
    patch = json.loads(json.dumps(diff({"x": 1}, document)))
    assert documents_equal(apply_patch({"x": 1}, patch), document)


@pytest.mark.parametrize("source", ["/0/0", "/0/0/0"])
def test_a_value_that_was_moved_in_before_its_own_parent_comes_back(source):
    document = [[[None, 1], 2], 3]
    patch = [{"op": "move", "from": source, "path": "/0"}]
    inverse = invert(document, patch)
    assert apply_patch(apply_patch(document, patch), inverse) == document
    assert document == [[[None, 1], 2], 3]
