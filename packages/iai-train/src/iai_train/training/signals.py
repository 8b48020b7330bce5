"""Signals that end a program, put off until a training run is saved."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], object] | int | None


class Signals:
    """Catches SIGTERM and SIGINT in a `with` block: the first is noted, the second acts at once.

    After the block the handlers from before are back, and a signal that was noted and not yet
    delivered does what it would have done. Outside of the main thread, where Python handles no
    signals, nothing is caught.

    Args:
        enabled: Whether to catch any.
    """

    def __init__(self, *, enabled: bool) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._enabled = enabled and main
        self._before: dict[int, _Handler] = {}
        self.received = 0
        """The signal that was noted; 0: none."""

    def __enter__(self) -> "Signals":
        self._install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        if self.received:
            signal.raise_signal(self.received)

    def deliver(self, number: int) -> bool:
        """Lets a signal do what it would have done.

        Returns:
            Whether the program goes on: its own handler returned. A signal that ends the process
            is left to the end of the block, so that everything is closed first.
        """
        self.received = number
        if not callable(self._before.get(number)):
            return False
        self.received = 0
        self._restore()
        try:
            signal.raise_signal(number)
        finally:
            self._install()
        return True

    def _install(self) -> None:
        if self._enabled:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # None: not from Python, nor to restore
                    self._before[number] = handler
                    signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            self._restore()
            self.received = 0
            signal.raise_signal(number)
        else:
            self.received = number
