import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from iai_train.training.signals import Signals
from least_squares import GaveUpError, Interrupted, sampler_source, train


class Signalled(Interrupted):
    """A source during whose last batch signals arrive."""

    def __init__(self, batches: int, *numbers: int) -> None:
        super().__init__(sampler_source(), batches)
        self.numbers = numbers

    def next(self) -> object:
        if self._left == 1:
            for number in self.numbers:
                os.kill(os.getpid(), number)
        return super().next()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Tests that the handlers from before are back; SIGINT has Python's own.

    Where a shell started the tests in the background, SIGINT is ignored.
    """
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    signal.signal(signal.SIGINT, outside)


def test_an_interrupt_saves_and_then_interrupts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(source=Signalled(7, signal.SIGINT), out=tmp_path)
    resumed = train(out=tmp_path)
    assert resumed.resumed_at == 7
    assert resumed.losses == train().losses


def test_a_second_interrupt_acts_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(source=Signalled(7, signal.SIGINT, signal.SIGINT), out=tmp_path)
    assert train(out=tmp_path).resumed_at == 4


def test_without_a_folder_an_interrupt_acts_at_once() -> None:
    source = Signalled(7, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(source=source)
    assert source._left == 1


def test_a_handler_that_returns_lets_the_run_go_on(tmp_path: Path) -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(GaveUpError):
            train(source=Signalled(7, signal.SIGTERM), out=tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    resumed = train(out=tmp_path)
    assert resumed.resumed_at == 7
    assert resumed.losses == train().losses


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Signals(enabled=True) as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_trains_without_handlers(tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(train(out=tmp_path)))
    thread.start()
    thread.join()
    assert results[0].losses == train().losses


def test_a_signal_that_ends_the_process_comes_when_all_is_saved_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(number: int) -> None:
        ends.append((number, signal.getsignal(number), sorted(os.listdir(tmp_path))))

    ends = []
    monkeypatch.setattr(signal, "raise_signal", killed)
    train(source=Signalled(7, signal.SIGTERM), out=tmp_path)
    files = [".lock", "checkpoint.safetensors", "log.jsonl"]
    assert ends == [(signal.SIGTERM, signal.SIG_DFL, files)]
    assert train(out=tmp_path).resumed_at == 7
