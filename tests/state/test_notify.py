from __future__ import annotations

import functools
import gc
import logging
import threading
import weakref

import pytest

from reactstate.state.notify import Notifier


class Source:
    """Something that sends."""


def test_callbacks_see_every_item_in_the_order_of_registration():
    notifier = Notifier()
    seen = []
    notifier.on_change(lambda item: seen.append(("a", item)))
    notifier.on_change(lambda item: seen.append(("b", item)))
    notifier.deliver(1)
    notifier.deliver(2)
    assert seen == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_an_undo_removes_its_own_registration_once():
    notifier = Notifier()
    seen = []
    first = notifier.on_change(seen.append)
    notifier.on_change(seen.append)
    first()
    first()
    notifier.deliver(1)
    assert seen == [1]


def test_a_callback_is_kept_alive_until_its_undo():
    class Callback:
        def __call__(self, item):
            """Hear of it."""

    notifier = Notifier()
    callback = Callback()
    alive = weakref.ref(callback)
    undo = notifier.on_change(callback)
    del callback
    gc.collect()
    assert alive() is not None
    undo()
    del undo
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("with_signal", [False, True])
def test_an_item_delivered_inside_a_callback_comes_after_the_current_one(with_signal):
    notifier = Notifier()
    if with_signal:
        notifier.changed  # noqa: B018 - it is made when asked for
    first, second = [], []

    def again(item):
        first.append(item)
        if item < 4:
            notifier.deliver(item + 1)

    notifier.on_change(again)
    notifier.on_change(second.append)
    notifier.deliver(1)
    assert first == second == [1, 2, 3, 4]


def test_an_exception_is_logged_with_its_traceback_and_goes_no_further(caplog):
    notifier = Notifier()
    seen = []

    def fails(item):
        raise RuntimeError("on purpose")

    notifier.on_change(fails)
    notifier.on_change(seen.append)
    notifier.changed.connect(fails)
    receiver = lambda sender, change: seen.append(("signal", change))  # noqa: E731 - blinker holds it weakly
    notifier.changed.connect(receiver)
    with caplog.at_level(logging.ERROR, logger="reactstate.state"):
        notifier.deliver(1)
    assert seen == [1, ("signal", 1)]
    assert [record.name for record in caplog.records] == ["reactstate.state"] * 2
    assert "on purpose" in caplog.text
    assert "fails" in caplog.records[0].getMessage()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["fast", "queue", "signal"])
def test_an_interrupt_passes_after_the_others_have_seen_the_item(interrupt, where):
    notifier = Notifier()
    seen = []

    def fails(*args, **kwargs):
        if seen.count("raised") < 1:
            seen.append("raised")
            if where != "fast":
                notifier.enqueue(2)
            raise interrupt

    if where == "signal":
        notifier.changed.connect(fails)
    else:
        notifier.on_change(fails)
    notifier.on_change(seen.append)
    with pytest.raises(interrupt):
        if where == "queue":
            notifier.enqueue(1)
            notifier.drain()
        else:
            notifier.deliver(1)
    assert 1 in seen
    if where != "fast":
        assert 2 not in seen
    notifier.deliver(3)
    assert [entry for entry in seen if entry != "raised"] == ([1, 3] if where == "fast" else [1, 2, 3])


def test_coroutine_functions_and_what_cannot_be_called_are_refused():
    async def coroutine_function(item):
        """Nobody would await this."""

    async def generator(item):
        yield item

    class Callback:
        async def __call__(self, item):
            """Nobody would await this."""

    for wrong in (coroutine_function, generator, Callback(), functools.partial(coroutine_function), None, 1, "fn"):
        with pytest.raises(TypeError):
            Notifier().on_change(wrong)


def test_a_coroutine_that_only_shows_when_called_is_reported(caplog):
    async def coroutine_function(item):
        """Nobody awaits this."""

    notifier = Notifier()
    seen = []
    notifier.on_change(lambda item: coroutine_function(item))
    notifier.on_change(lambda item: seen.append(item) or item)
    notifier.deliver(1)
    assert seen == [1]
    assert "coroutine" in caplog.text


def test_the_signal_sends_sender_and_change_and_honours_blinkers_rules():
    source = Source()
    notifier = Notifier(source)
    seen = []

    def receiver(sender, change):
        seen.append((sender, change))

    def elsewhere(sender, change):
        seen.append("wrong sender")

    assert notifier.changed is notifier.changed
    notifier.deliver(0)
    notifier.changed.connect(receiver)
    other = Source()
    notifier.changed.connect(elsewhere, sender=other)
    notifier.deliver(1)
    with notifier.changed.muted():
        notifier.deliver(2)
    notifier.changed.disconnect(receiver)
    notifier.deliver(3)
    assert seen == [(source, 1)]


def test_a_receiver_that_was_collected_is_forgotten():
    notifier = Notifier()
    seen = []

    def connect():
        def receiver(sender, change):
            seen.append(change)

        notifier.changed.connect(receiver)

    connect()
    gc.collect()
    notifier.deliver(1)
    assert seen == []


def test_a_coroutine_of_a_receiver_is_reported(caplog):
    async def receiver(sender, change):
        """Nobody awaits this."""

    notifier = Notifier()
    notifier.changed.connect(receiver)
    notifier.deliver(1)
    assert "coroutine" in caplog.text


def test_the_notifier_does_not_keep_its_sender_alive():
    source = Source()
    notifier = Notifier(source)
    alive = weakref.ref(source)
    del source
    assert alive() is None
    seen = []
    receiver = lambda sender, change: seen.append((sender, change))  # noqa: E731 - blinker holds it weakly
    notifier.changed.connect(receiver)
    notifier.deliver(1)
    assert seen == [(None, 1)]


def test_nothing_is_queued_while_nobody_listens():
    notifier = Notifier()
    notifier.enqueue(1)
    notifier.deliver(2)
    notifier.drain()
    seen = []
    notifier.on_change(seen.append)
    notifier.deliver(3)
    assert seen == [3]


def test_a_callback_that_undoes_itself_hears_nothing_more():
    notifier = Notifier()
    seen = []

    def once(item):
        seen.append(item)
        undo()

    undo = notifier.on_change(once)
    notifier.deliver(1)
    notifier.deliver(2)
    assert seen == [1]


@pytest.mark.parametrize("with_signal", [False, True])
def test_threads_that_enqueue_under_a_lock_are_heard_in_order_and_nothing_is_left_behind(with_signal):
    notifier = Notifier()
    if with_signal:
        notifier.changed  # noqa: B018 - it is made when asked for
    lock = threading.Lock()
    versions = [0]
    first, second, inside = [], [], []

    def hear(item):
        assert not inside
        inside.append(item)
        first.append(item)
        inside.pop()

    notifier.on_change(hear)
    notifier.on_change(second.append)

    def commit():
        for _ in range(2000):
            with lock:
                versions[0] += 1
                notifier.enqueue(versions[0])
            notifier.drain()

    threads = [threading.Thread(target=commit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first == second == list(range(1, 8001))


def test_threads_that_deliver_at_once_lose_nothing():
    notifier = Notifier()
    seen, again = [], []
    notifier.on_change(seen.append)
    notifier.on_change(again.append)

    def deliver(start):
        for item in range(start, start + 3000):
            notifier.deliver(item)

    threads = [threading.Thread(target=deliver, args=(start,)) for start in (0, 10_000, 20_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == again
    assert len(set(seen)) == 9000
    for start in (0, 10_000, 20_000):
        own = [item for item in seen if start <= item < start + 3000]
        assert own == sorted(own)
