"""One state, many threads, no locks: AtomicState."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from reactstate import AtomicState, Map, State


class Words(State):
    total: int = 0
    counts: Map[str, int] = Map()


def count(draft: Words, text: str) -> None:
    """Count words; this runs outside any lock, and again when another thread was faster."""
    for word in text.lower().split():
        draft.counts[word] = draft.counts.get(word, 0) + 1
        draft.total += 1


def main() -> None:
    words = AtomicState(Words())
    seen: list[int] = []
    words.on_change(lambda change: seen.append(change.version))
    texts = ["the quick brown fox", "jumps over the lazy dog"] * 50
    with ThreadPoolExecutor(max_workers=8) as pool:
        for _ in pool.map(lambda text: words.update(count, text), texts):
            # Reading takes no lock; what is read is whole and never changes.
            state = words.state
            if state.total != sum(state.counts.values()):
                raise RuntimeError("a half-made state was seen")
    print("words:", words.state.total, "the:", words.state.counts["the"])
    print("versions in order, without a gap:", seen == list(range(2, words.version + 1)))


if __name__ == "__main__":
    main()
