"""How many bytes of request bodies are held at once, over all connections."""


class BodyBudget:
    """A bound in bytes that all requests share. For one event loop only.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def open(self) -> "BodyShare":
        """A share for one request."""
        return BodyShare(self)


class BodyShare:
    """What one request holds of the budget; given back once, however it ends."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._held = 0
        self._closed = False

    def take(self, size: int) -> bool:
        """Take `size` bytes more, or none and say false."""
        budget = self._budget
        if self._closed or budget.held + size > budget.limit:
            return False
        budget.held += size
        self._held += size
        return True

    def close(self) -> None:
        """Give all of it back."""
        self._budget.held -= self._held
        self._held = 0
        self._closed = True
