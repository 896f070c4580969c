"""Old documents become states of today's classes, or typed errors that name what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from reactstate.errors import DecodeError, SchemaVersionError, StateDefinitionError
from reactstate.state.document import from_document, schema_of, states_equal, to_document
from reactstate.state.maps import Map
from reactstate.state.state import State, migration


class Line(State, type_name="shop.line", schema_version=2):
    product: str = ""
    pieces: int = 0

    @migration(from_version=1)
    def count_becomes_pieces(document: Any) -> Any:  # noqa: N805 - it is not a method
        document["pieces"] = document.pop("count")
        return document


class Holder(BaseModel):
    line: Line = Line()


class Cart(State, type_name="shop.cart", schema_version=3):
    owner: str
    lines: list[Line] = []
    by_name: dict[str, Line] = {}
    entries: Map[str, tuple[int, Line]] = Map()
    perhaps: Line | None = None
    either: int | Holder = 0

    @migration(from_version=1)
    @staticmethod
    def user_becomes_owner(document: dict[str, Any]) -> dict[str, Any]:
        owner = document.pop("user")
        return {**document, "owner": owner}

    @migration(from_version=2)
    def items_become_lines(document: Any) -> Any:  # noqa: N805
        document["lines"] = document.pop("items", [])
        return document


OLD_LINE = {"product": "apple", "count": 3}
NEW_LINE = Line(product="apple", pieces=3)


def test_a_chain_of_migrations_leads_to_todays_class_with_nested_states_at_their_own_versions() -> None:
    document = {
        "user": "ada",
        "items": [OLD_LINE, OLD_LINE],
        "by_name": {"a": OLD_LINE},
        "entries": {"a": [1, OLD_LINE]},
        "perhaps": OLD_LINE,
        "either": {"line": OLD_LINE},
    }
    before = repr(document)
    state = from_document(Cart, document, {"shop.cart": 1, "shop.line": 1})
    assert state == Cart(
        owner="ada",
        lines=[NEW_LINE, NEW_LINE],
        by_name={"a": NEW_LINE},
        entries=Map({"a": (1, NEW_LINE)}),
        perhaps=NEW_LINE,
        either=Holder(line=NEW_LINE),
    )
    assert repr(document) == before, "the raw document stays as it is"


def test_only_what_is_old_is_migrated() -> None:
    current = to_document(Cart(owner="ada", lines=[NEW_LINE]))
    assert from_document(Cart, current, schema_of(Cart)).lines == [NEW_LINE]
    assert from_document(Cart, current).lines == [NEW_LINE]
    root_old = {"owner": "ada", "items": [{"product": "apple", "pieces": 3}]}
    assert from_document(Cart, root_old, {"shop.cart": 2, "shop.line": 2}).lines == [NEW_LINE]
    nested_old = {"owner": "ada", "lines": [OLD_LINE], "either": 5, "perhaps": None}
    assert from_document(Cart, nested_old, {"shop.cart": 3, "shop.line": 1}).lines == [NEW_LINE]


def test_a_type_that_was_not_there_when_the_document_was_written_needs_no_migration() -> None:
    assert from_document(Cart, {"owner": "ada", "items": []}, {"shop.cart": 2}).owner == "ada"


def test_a_newer_version_and_a_missing_migration_are_typed_errors() -> None:
    with pytest.raises(SchemaVersionError, match="open it with a newer program") as caught:
        from_document(Cart, {}, {"shop.cart": 4})
    assert (caught.value.type_name, caught.value.stored, caught.value.current) == ("shop.cart", 4, 3)
    with pytest.raises(SchemaVersionError, match="knows 2"):
        from_document(Cart, {"owner": "a", "lines": [{}]}, {"shop.cart": 3, "shop.line": 3})

    class Gap(State, schema_version=4):
        @migration(from_version=1)
        def first(document: Any) -> Any:  # noqa: N805
            return document

    with pytest.raises(SchemaVersionError, match=r"give it a @migration\(from_version=2\)") as caught:
        from_document(Gap, {}, {"Gap": 1})
    assert (caught.value.stored, caught.value.current) == (2, 4)


def test_a_migration_that_fails_is_a_decode_error_with_the_cause() -> None:
    class Failing(State, schema_version=3):
        @migration(from_version=1)
        def broken(document: Any) -> Any:  # noqa: N805
            return document["missing"]

        @migration(from_version=2)
        def forgetful(document: Any) -> None:  # noqa: N805
            document["x"] = 1

    with pytest.raises(DecodeError, match="from version 1 raised KeyError: 'missing'") as caught:
        from_document(Failing, {}, {"Failing": 1})
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(DecodeError, match="from version 2 must return the document"):
        from_document(Failing, {}, {"Failing": 2})


def test_a_migrated_document_that_does_not_fit_is_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        from_document(Cart, {"user": 5}, {"shop.cart": 1})
    for odd in ({"owner": "a", "lines": 5}, {"owner": "a", "by_name": []}, {"owner": "a", "entries": {"a": 1}}, 5):
        with pytest.raises(DecodeError):
            from_document(Cart, odd, {"shop.cart": 3, "shop.line": 1})


def test_recursive_states_are_migrated_at_every_depth() -> None:
    class Folder(State, schema_version=2):
        title: str = ""
        folders: list[Folder] = []
        box: Box | None = None

        @migration(from_version=1)
        def name_becomes_title(document: Any) -> Any:  # noqa: N805
            document["title"] = document.pop("name")
            return document

    class Box(BaseModel):
        boxes: list[Box] = []
        line: Line = Line()

    Folder.model_rebuild()
    document = {
        "name": "a",
        "folders": [{"name": "b", "folders": [{"name": "c"}]}],
        "box": {"boxes": [{"boxes": [{"line": OLD_LINE}]}]},
    }
    state = from_document(Folder, document, {"Folder": 1, "shop.line": 1})
    assert state.folders[0].folders[0].title == "c"
    assert state.box is not None
    assert state.box.boxes[0].boxes[0].line == NEW_LINE


def test_sets_and_scalars_pass_a_migration_untouched() -> None:
    class Tagged(State, schema_version=2):
        tags: set[str] = set()
        lines: list[Line] = []
        numbers: tuple[int, ...] = ()

        @migration(from_version=1)
        def labels_become_tags(document: Any) -> Any:  # noqa: N805
            document["tags"] = document.pop("labels")
            return document

    state = from_document(Tagged, {"labels": ["b", "a", "a"], "numbers": [1]}, {"Tagged": 1, "shop.line": 2})
    assert state == Tagged(tags={"a", "b"}, numbers=(1,))
    assert states_equal(from_document(Tagged, to_document(state), schema_of(Tagged)), state)


def test_a_migration_is_a_plain_function_of_the_class() -> None:
    assert Cart.items_become_lines({"items": [1]}) == {"lines": [1]}
    assert Cart(owner="a").user_becomes_owner({"user": "x"}) == {"owner": "x"}


def test_migrations_that_cannot_be_are_refused_when_the_class_is_defined() -> None:
    with pytest.raises(StateDefinitionError, match="needs a higher schema_version"):

        class NoVersion(State):
            @migration(from_version=1)
            def first(document: Any) -> Any:  # noqa: N805
                return document

    with pytest.raises(StateDefinitionError, match="is there twice"):

        class Twice(State, schema_version=2):
            @migration(from_version=1)
            def first(document: Any) -> Any:  # noqa: N805
                return document

            @migration(from_version=1)
            def second(document: Any) -> Any:  # noqa: N805
                return document

    with pytest.raises(StateDefinitionError, match="schema versions start at 1"):
        migration(from_version=0)
    for version in (0, -1, "2", True):
        with pytest.raises(StateDefinitionError, match="a whole number from 1 on"):
            type("Bad", (State,), {}, schema_version=version)


def test_a_pickle_of_an_older_class_is_migrated_too() -> None:
    import pickle

    class_now = Cart
    state = class_now(owner="ada", lines=[NEW_LINE])
    function, (cls, schema, document) = state.__reduce__()
    old = {**document, "items": [OLD_LINE], "user": "ada"}
    del old["lines"], old["owner"]
    assert function(cls, {**schema, "shop.cart": 1, "shop.line": 1}, old) == state
    assert pickle.loads(pickle.dumps(state)) == state


def test_union_members_are_migrated_by_their_discriminator() -> None:
    from typing import Annotated, Literal

    class Cat(State, schema_version=2):
        type: Literal["cat"] = "cat"
        lives: int = 9

        @migration(from_version=1)
        def rename(document: Any) -> Any:  # noqa: N805
            document["lives"] = document.pop("n")
            return document

    class Dog(State):
        type: Literal["dog"] = "dog"

    class Home(State):
        pets: list[Annotated[Cat | Dog, Field(discriminator="type")] | None] = []

    document = {"pets": [{"type": "cat", "n": 3}, None, {"type": "dog"}]}
    assert from_document(Home, document, {"Home": 1, "Cat": 1, "Dog": 1}).pets == [Cat(lives=3), None, Dog()]
    with pytest.raises(DecodeError):
        from_document(Home, {"pets": [{"type": "cow"}]}, {"Home": 1, "Cat": 1, "Dog": 1})
