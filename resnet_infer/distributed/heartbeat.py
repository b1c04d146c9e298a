"""Signs of life of processes that work apart, so that a dead one is an error in time and never a smaller count."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar

from resnet_infer.distributed.group import Processes
from resnet_infer.errors import ProcessError

Answer = TypeVar("Answer")

INTERVAL_S = 1.0
DONE, FAILED, STOP = "done", "failed", "stop"


class RollCall:
    """What every process says of itself through the common store: how many images it has done, or how it ended.

    Without other processes nothing is said and nobody waited for.
    """

    def __init__(
        self,
        group: Processes,
        advance: Callable[[int], object] = lambda images: None,
        clock: Callable[[], float] = time.monotonic,
        remedy: str = "see what became of it",
    ) -> None:
        """`advance` is called with every number of images that this process, or on the leader any, has done.

        `remedy` ends what is said of a silent process.
        """
        self._group = group
        self._advance = advance
        self._clock = clock
        self._remedy = remedy
        self._said_at = -INTERVAL_S
        self._round = group.from_leader(time.time_ns())  # keys of its own, should there be several evaluations
        self._images = 0
        self._elsewhere = 0
        self._stop = False

    def say(self, images: int = 1) -> bool:
        """Count images done, and now and then tell the others; whether all are asked to stop."""
        self._images += images
        self._advance(images)
        store, now = self._group.store, self._clock()
        if store is not None and now - self._said_at >= INTERVAL_S:
            self._said_at = now
            self._set(str(self._images))
            self._stop = self._stop or self._asked(lambda: store.check([self._key(STOP)]))
            if self._group.leads:
                self._hear()
        return self._stop

    def stop(self) -> None:
        """Ask all to stop scoring: an image cannot be read, and the evaluation is to fail."""
        self._stop = True
        store = self._group.store
        if store is not None:
            self._asked(lambda: store.set(self._key(STOP), "1"))

    def _hear(self) -> None:
        signs = [self._sign(rank) for rank in range(1, self._group.world)]
        elsewhere = sum(int(sign) for sign in signs if sign.isdecimal())
        self._advance(max(0, elsewhere - self._elsewhere))
        self._elsewhere = max(elsewhere, self._elsewhere)

    @contextmanager
    def member(self) -> Iterator[None]:
        """In the body this process works alone; the others learn of its failure. Afterwards all have ended well.

        Raises ProcessError naming a process that failed, or gave no sign for `Processes.patience_s`.
        """
        if self._group.store is None:
            yield
            return
        self.say(0)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(ProcessError):
                self._set(f"{FAILED} {str(error) or type(error).__name__}")
            raise
        self._set(DONE)
        self._wait()

    def _wait(self) -> None:
        ranks = range(self._group.world)
        said = dict.fromkeys(ranks, "")
        since = dict.fromkeys(ranks, self._clock())
        looked = self._clock()
        while True:
            now = self._clock()
            if now - looked > 10 * INTERVAL_S:  # this process itself was stopped for a while
                since = {rank: at + now - looked for rank, at in since.items()}
            looked = now
            for rank in ranks:
                if (sign := self._sign(rank)) != said[rank]:
                    said[rank], since[rank] = sign, now
                if sign.startswith(FAILED):
                    raise ProcessError(f"process {rank} failed: {sign[len(FAILED) + 1 :]}", rank)
                if sign != DONE and now - since[rank] > self._group.patience_s:
                    raise ProcessError(
                        f"process {rank} of {self._group.world} gave no sign for {self._group.patience_s:g} s, after "
                        f"{sign or 'no'} images; {self._remedy}",
                        rank,
                    )
            if all(sign == DONE for sign in said.values()):
                return
            time.sleep(INTERVAL_S / 4)

    def _sign(self, rank: int) -> str:
        store = self._group.store
        assert store is not None
        key = self._key(rank)
        sign: bytes = self._asked(lambda: store.get(key) if store.check([key]) else b"")
        return sign.decode()

    def _set(self, sign: str) -> None:
        store = self._group.store
        assert store is not None
        self._asked(lambda: store.set(self._key(self._group.rank), sign))

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """What the store answers; it waits without end for a process that is stopped, so it is asked aside."""
        answers: SimpleQueue[tuple[Answer | None, RuntimeError | None]] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put((question(), None))
            except RuntimeError as error:
                answers.put((None, error))

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer, error = answers.get(timeout=self._group.patience_s)
        except Empty:
            raise ProcessError(
                f"the process that keeps the run together (process 0, or torchrun's) gave no sign for "
                f"{self._group.patience_s:g} s; {self._remedy}"
            ) from None
        if error is not None:
            raise ProcessError(
                "the process that keeps the run together is gone; its own error, if any, is above"
            ) from error
        return answer  # type: ignore[return-value]

    def _key(self, what: object) -> str:
        return f"{self._round}/{what}"
