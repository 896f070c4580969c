"""Entries: dedup keys, values, counters, states, and the keys there are."""

from __future__ import annotations

from asyncio import get_running_loop
from threading import get_ident
from typing import TYPE_CHECKING, Final

from reactstate.coordination.base import Coordinating
from reactstate.coordination.counting import Counters
from reactstate.coordination.groups import as_part, member_part, members_of
from reactstate.coordination.layout import check_text, encode, encode_labelled, is_number, text_of
from reactstate.coordination.results import CasResult, Stored
from reactstate.coordination.writing import Attempt
from reactstate.errors import ConflictError, UnavailableError, UnknownOutcomeError
from reactstate.kv.keys import StateKey
from reactstate.kv.protocol import ABSENT, ANY, Capability, Delete, Put, Step
from reactstate.kv.terms import prefix_end, ttl_ms
from reactstate.locks.guard import check_guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from reactstate.coordination.writing import Written
    from reactstate.kv.protocol import Entry, Operation, Ttl
    from reactstate.kv.transaction import Guard

__all__ = ["Entries"]

_PLAIN_TTL_S: Final = 1_000_000_000


class Entries(Coordinating):
    """The part of a coordination store that keeps text under keys."""

    def _begin_counting(self) -> None:
        self._keys_root = self._layout.keys
        self._thread = get_ident()
        self._label = self._writer.label()
        # Without a default TTL, which is not for these entries, ``put_if_absent`` does what the commit would.
        self._memory = self._writer.memory if self._store.options.default_ttl is None else None
        self._counters = Counters(self._writer, self._turns, self._rest)

    # --- dedup ----------------------------------------------------------------------------------------------------

    async def check_and_set(self, key: StateKey, value: str = "", ttl: Ttl | None = None) -> bool:
        """Store *value* if there is nothing under *key*; say whether there was nothing.

        The first wins: of any number of callers exactly one gets True, and value and TTL are those of the first.

        Args:
            key: What must be new.
            value: What is stored.
            ttl: How long a second one counts as a duplicate: a timedelta, or seconds; None: until it is deleted.

        Raises:
            ValueError: *ttl* is not more than 0.
            TypeError: *value* is no text.
            InvalidKeyError: *key* is no StateKey.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was stored.
        """
        # All of it in one piece: nothing is called more often. A read needs the right thread only, which costs a
        # quarter of asking for the loop, in which Python asks the operating system for the process.
        if get_ident() != self._thread or self._closed or self._refusal is not None:
            self._check_loop()
        name = self._keys_root + key._text if type(key) is StateKey else self._layout.key(key)
        if ttl is not None and not (type(ttl) is int and 0 < ttl < _PLAIN_TTL_S):
            ttl_ms(ttl)
        if type(value) is not str:
            check_text(value, "a value")
        memory = self._memory
        if memory is not None:
            if memory._is_live(name):
                return False
        elif await self._writer.read(name) is not None:
            return False
        if get_running_loop() is not self._loop:
            self._check_loop()
        if memory is not None:  # it always answers, so there is nothing to know the entry again by
            return await memory.put_if_absent(name, encode_labelled(value, self._label), ttl=ttl)
        if value or not self._complete:
            return await self._create(name, value, ttl)
        label = self._writer.label()
        steps = (Step(name, Put(label, ttl), ABSENT),)
        try:
            await self._store.commit(steps)
        except ConflictError:
            return False
        except (UnavailableError, UnknownOutcomeError) as exc:
            return await self._created(steps, label, exc)
        return True

    async def _create(self, name: str, value: str, ttl: Ttl | None) -> bool:
        """Write an entry if there is none; say whether there was none."""
        if not self._complete:
            if ttl is not None:
                self._store.require("a time to live", Capability.TTL)
        elif is_number(data := encode(value)):  # an increment is to keep its TTL, so it is plain digits
            try:
                await self._writer.commit([Step(name, Put(data, ttl), ABSENT)])
            except ConflictError:
                return False
            return True
        label = self._writer.label()
        steps = (Step(name, Put(encode_labelled(value, label), ttl), ABSENT if self._complete else ANY),)
        try:
            await self._store.commit(steps)
        except ConflictError:
            return False
        except (UnavailableError, UnknownOutcomeError) as exc:
            return await self._created(steps, label, exc)
        return True

    async def _created(
        self, steps: Sequence[Step], label: bytes, error: UnavailableError | UnknownOutcomeError
    ) -> bool:
        """Go on with a creation whose first commit ended with *error*."""
        try:
            await Attempt(self._writer, steps, steps[0].key, label).settle(error)
        except ConflictError:
            return False
        return True

    # --- values ---------------------------------------------------------------------------------------------------

    async def get(self, key: StateKey) -> Stored | None:
        """Return the value, version and expiry of *key*, or None when there is nothing.

        Raises:
            InvalidKeyError: *key* is no StateKey.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        if get_ident() != self._thread or self._closed or self._refusal is not None:
            self._check_loop()
        name = self._keys_root + key._text if type(key) is StateKey else self._layout.key(key)
        try:
            entry = await self._store.get(name)
        except UnavailableError:
            entry = await self._writer.read(name)
        return None if entry is None else Stored(text_of(entry), entry.revision, entry.expires_at)

    async def set(self, key: StateKey, value: str, ttl: Ttl | None = None, *, guard: Guard | None = None) -> int:
        """Store *value* under *key*, whatever is there; return its version.

        Args:
            key: Where.
            value: What.
            ttl: How long it lives; None: until it is deleted, also if what was there had a TTL.
            guard: A lock or claim; the store refuses the write once its holder has lost it.

        Raises:
            ValueError: *ttl* is not more than 0.
            TypeError: *value* is no text.
            LeaseLostError: *guard* is held no longer; nothing was changed.
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was stored.
        """
        put = self._put(value, ttl)
        return (await self._write(key, lambda _: put, guard)).revision

    async def delete(self, key: StateKey, *, guard: Guard | None = None) -> bool:
        """Remove what is under *key*; say whether there was something. It raises as ``set`` does."""
        return (await self._write(key, _delete, guard)).revision > 0

    async def increment(self, key: StateKey, delta: int = 1, ttl: Ttl | None = None) -> int:
        """Add *delta* to the counter under *key*; return the sum.

        Args:
            key: The counter; one that is not there is created from 0.
            delta: What is added; may be negative.
            ttl: How long the counter lives if this creates it; one that is there keeps the TTL that it has.

        Raises:
            NotACounterError: The value is no whole number, or would leave the range of a signed 64-bit integer.
            TypeError: *delta* is no int.
            ValueError: *ttl* is not more than 0.
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was added.
            UnknownOutcomeError: It is not known whether it was added.
        """
        self._check_write()
        name = self._layout.key(key)
        if type(delta) is not int:
            raise TypeError(f"a counter's delta is an integer, not a {type(delta).__name__}")
        if ttl is not None:
            ttl_ms(ttl)
        return await self._counters.increment(name, str(key), delta, ttl)

    async def compare_and_swap(
        self,
        key: StateKey,
        expected: str | int | None,
        new: str,
        ttl: Ttl | None = None,
        *,
        guard: Guard | None = None,
    ) -> CasResult:
        """Store *new* under *key* if what is there is what was *expected*.

        Args:
            key: Where.
            expected: The value that must be there (str), or its version (int; 0: nothing); None: nothing.
            new: What is stored.
            ttl: How long it lives; None: until it is deleted.
            guard: A lock or claim; the store refuses the write once its holder has lost it.

        Returns:
            Whether it was stored, and the version and value that are there now; it is true if it was.

        Raises:
            TypeError: *new* is no text, or *expected* neither text, version nor None; and all that ``set``
                raises.
        """
        if expected is not None and type(expected) is not int and not isinstance(expected, str):
            raise TypeError(f"expected is a value, a version or None, not a {type(expected).__name__}")
        put = self._put(new, ttl)

        def plan(entry: Entry | None) -> Operation | None:
            return put if _is(entry, expected) else None

        written = await self._write(key, plan, guard)
        if written.revision:
            return CasResult(True, written.revision, str.__str__(new))
        entry = written.entry
        return CasResult(False, 0, None) if entry is None else CasResult(False, entry.revision, text_of(entry))

    async def transition(
        self, key: StateKey, expected: str | None, new: str, ttl: Ttl | None = None, *, guard: Guard | None = None
    ) -> CasResult:
        """Move the state machine *key* from the state *expected* to the state *new*.

        Of several that make the same move at a time exactly one makes it; the others are told what the state is now.

        Args:
            key: The state machine; its state is the value there.
            expected: The state that it must be in; None: it has none yet.
            new: The state that it moves to.
            ttl: How long the new state lives; None: until it is deleted.
            guard: A lock or claim; the store refuses the move once its holder has lost it.

        Returns:
            Whether it moved (the result is true if it did), and version and state that are there now.

        Raises:
            TypeError: A state is no text; and all that ``set`` raises.
        """
        if expected is not None:
            encode(expected)
        return await self.compare_and_swap(key, expected, new, ttl, guard=guard)

    @staticmethod
    def _put(value: str, ttl: Ttl | None) -> Put:
        if ttl is not None:
            ttl_ms(ttl)
        return Put(encode(value), ttl)

    async def _write(
        self, key: StateKey, plan: Callable[[Entry | None], Operation | None], guard: Guard | None
    ) -> Written:
        self._check_write()
        name = self._layout.key(key)
        if guard is not None:
            check_guard(guard, self._store)
        await self._turns.take(name)
        try:
            return await self._writer.write(name, plan, guard)
        finally:
            self._give_turn(name)

    # --- keys -----------------------------------------------------------------------------------------------------

    def scan_keys(self, namespace: str, tenant: str, kind: str, prefix: str = "") -> AsyncIterator[StateKey]:
        """Iterate over the keys of a namespace, tenant and kind in order, without holding them all in memory.

        What is written meanwhile may or may not be seen.

        Args:
            namespace: Whose keys.
            tenant: For whom.
            kind: Of what.
            prefix: Only ids that begin with it; no sign in it has a meaning of its own.

        Raises:
            InvalidKeyError: One of them is no text.
        """
        self._check_call()
        first = self._layout.keys + StateKey.prefix(namespace, tenant, kind) + as_part(prefix)
        return self._keys(first)

    def scan_keys_by_kind(self, kind: str) -> AsyncIterator[StateKey]:
        """Iterate over the keys of a kind in all namespaces and for all tenants, in order.

        It costs one look for each tenant of a namespace, and what is found; see ``scan_keys``.

        Raises:
            InvalidKeyError: *kind* is no text.
        """
        self._check_call()
        return self._keys_by_kind(StateKey.prefix(kind))

    async def _keys(self, first: str) -> AsyncIterator[StateKey]:
        self._check_loop()
        async for entry in self._store.scan(first):
            yield self._layout.parse(entry.key)
            self._check_loop()

    async def _keys_by_kind(self, kind: str) -> AsyncIterator[StateKey]:
        """Skip from the kind in one tenant to that in the next."""
        self._check_loop()
        root = self._layout.keys
        start: str | None = root
        while start is not None:
            found = [entry.key async for entry in self._store.scan(root, start=start, limit=1)]
            if not found:
                return
            namespace, tenant, *_ = found[0][len(root) :].split("/")
            of_tenant = f"{root}{namespace}/{tenant}/"
            wanted = of_tenant + kind
            if found[0] < wanted:
                start = wanted
                continue
            if found[0].startswith(wanted):
                async for key in self._keys(wanted):
                    yield key
            start = prefix_end(of_tenant)

    # --- groups ---------------------------------------------------------------------------------------------------

    async def add_to_group(self, group: StateKey, member: str, ttl: Ttl | None = None) -> bool:
        """Make *member* a member of *group*; say whether it was none.

        Args:
            group: The group; it needs no creating.
            member: Text that is not empty.
            ttl: How long it stays one if this adds it; None: until it is removed.

        Raises:
            InvalidKeyError: *group* is no StateKey, or *member* no such text; and all that ``check_and_set``
                raises.
        """
        self._check_write()
        name = self._layout.members(group) + member_part(member)
        if ttl is not None:
            ttl_ms(ttl)
        return await self._writer.read(name) is None and await self._create(name, "", ttl)

    async def remove_from_group(self, group: StateKey, member: str) -> bool:
        """End the membership of *member*; say whether it was a member. It raises as ``delete`` does."""
        self._check_write()
        name = self._layout.members(group) + member_part(member)
        return (await self._writer.write(name, _delete)).revision > 0

    def group_members(self, group: StateKey, prefix: str = "") -> AsyncIterator[str]:
        """Iterate over the members of *group* in order (``/`` counts as ``%``), without holding them all in memory.

        Args:
            group: The group; one without members is empty.
            prefix: Only members that begin with it.

        Raises:
            InvalidKeyError: *group* is no StateKey, or *prefix* no text.
        """
        self._check_call()
        members = self._layout.members(group)
        return members_of(self._store.scan(members + as_part(prefix)), members)


def _delete(entry: Entry | None) -> Operation | None:
    return None if entry is None else Delete()


def _is(entry: Entry | None, expected: str | int | None) -> bool:
    """Say whether *entry* is what was expected."""
    if entry is None:
        return expected is None or (type(expected) is int and expected == 0)
    if isinstance(expected, str):
        return text_of(entry) == expected
    return entry.revision == expected
