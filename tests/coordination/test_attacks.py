"""What was found by attacking coordination stores."""

from __future__ import annotations

import pytest

from reactstate.coordination.store import CoordinationStore
from reactstate.errors import UnsupportedError
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.keys import StateKey
from reactstate.kv.memory import MemoryStore
from reactstate.mvcc.container import MVCCContainer
from reactstate.state.state import State

ORDER = StateKey("shop", "acme", "order", "1")


class Account(State):
    id: str
    balance: int = 0


async def claimed(coordination):
    await coordination.index_timeout(ORDER, 1_000)
    (claim,) = await coordination.claim_expired_timeouts(1, 60, now=2_000)
    return claim


async def test_a_claim_of_another_store_completes_and_guards_nothing_here_even_if_token_and_key_are_the_same():
    async with (
        MemoryStore() as here,
        MemoryStore() as there,
        CoordinationStore.open(store=here) as mine,
        CoordinationStore.open(store=there) as other,
    ):
        claim, foreign = await claimed(mine), await claimed(other)
        assert (foreign.token, foreign.place) == (claim.token, claim.place)
        for call in (mine.complete, mine.release):
            with pytest.raises(UnsupportedError):
                await call(foreign)
        with pytest.raises(UnsupportedError):
            await mine.extend(foreign, 60)
        with pytest.raises(UnsupportedError):
            await mine.set(ORDER, "paid", guard=foreign)
        async with KeyedContainer.open(Account, store=here) as accounts:
            with pytest.raises(UnsupportedError):
                await accounts.put(Account(id="ada"), guard=foreign)
        async with MVCCContainer.open(Account, store=here) as bank:
            tx = await bank.begin_transaction(guard=foreign)
            tx.write(Account(id="ada"))
            with pytest.raises(UnsupportedError):
                await tx.commit()
            assert await bank.get("ada") is None
        await mine.complete(claim)
