"""Pages of a pool: who holds which, how often, and how many are promised."""


class Pages:
    """`pages = Pages(64)`; `page = pages.take()`; `pages.share(page)`; `pages.give_back(page)`: free when no one holds it any more.

    A promise sets free pages aside for a request that will take them later, so that what was admitted can always finish.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.promised = 0
        self._free = list(reversed(range(count)))
        self._holders = [0] * count

    @property
    def free(self) -> int:
        """Pages that no one holds and no one was promised."""
        return len(self._free) - self.promised

    def promise(self, count: int) -> None:
        assert count <= self.free, f"{count} pages promised, {self.free} free"
        self.promised += count

    def withdraw(self, count: int) -> None:
        """Give up a promise that will not be used."""
        assert count <= self.promised, f"{count} promises withdrawn of {self.promised}"
        self.promised -= count

    def take(self, *, promised: bool = False) -> int:
        """A free page; with `promised` one that was set aside for the caller."""
        assert promised or self.free > 0, "no page is free"
        if promised:
            self.withdraw(1)
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        assert self._holders[page] > 0, f"page {page} is free and cannot be shared"
        self._holders[page] += 1

    def give_back(self, page: int) -> None:
        assert self._holders[page] > 0, f"page {page} is given back twice"
        self._holders[page] -= 1
        if not self._holders[page]:
            self._free.append(page)
