"""Counting the images that could not be read."""

from collections.abc import Iterable

from train_utils.distributed_utils import broadcast_object, gather_objects, get_world_size
from train_utils.errors import InputError


class BadSamples:
    """Paths of the images that could not be read, with a limit.

    The data set replaces such an image by another and names it in `target["unreadable"]`.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.paths: set[str] = set()

    def count(self, targets: Iterable[dict]) -> None:
        """Note the unreadable images of a batch; above the limit, stop at once (a single process) or at `check`."""
        self.paths.update(target["unreadable"] for target in targets if "unreadable" in target)
        if get_world_size() == 1:
            self._stop_above_limit(self.paths)

    def check(self) -> None:
        """Compare the count over all processes with the limit; a collective call, at the end of an epoch."""
        everywhere = gather_objects(self.paths)
        self.paths = broadcast_object(set().union(*everywhere) if everywhere else None)
        self._stop_above_limit(self.paths)

    def _stop_above_limit(self, paths: set[str]) -> None:
        if len(paths) > self.limit:
            raise InputError(
                f"{len(paths)} images could not be read, more than --max-bad-samples {self.limit}: "
                f"{', '.join(sorted(paths)[:5])}; repair or remove them"
            )
