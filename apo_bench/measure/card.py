"""What a run did to the card: energy, clocks, memory by the driver's count, and who else was there."""

import os

from apo_bench.measure.nvml import Card


class CardUse:
    """Readings of a card over a run.

    `start` reads the energy counter, before the first step. `sample`, called at every evaluation while the clocks are
    still those of the training steps just made, reads the clock, the reasons that hold it down, and the processes;
    these are three requests to the driver. `finish` reads the energy counter again. Nothing is read in between, so what
    happens between two samples is only in the energy.

    Without a card every result is unknown. Energy is that of the whole card, idle power and the work of other processes
    included. All results are since `start`: a continued run knows nothing of the time before it was taken up.

    Args:
        card: The card, or `None` where there is none to read.
        pid: The run's process; by default this one.

    Attributes:
        energy_joules: Energy from `start` to `finish`, in joules; `None` where the counter is not supported, went
            backwards (the driver was reloaded) or stood still. Drivers renew it only some ten times a second, so it is
            coarse for a run of less than a second.
        clock_mhz: Lowest and highest clock of the multiprocessors at the samples, in MHz.
        throttle_reasons: Every reason seen at any sample, sorted; see `Card.throttle_reasons`.
        foreign_processes: The most other processes seen at one sample; `None` while the driver listed none, or a
            single one that is not the run's own: then it hides the run, or numbers it as the host of a container does.
            Of several that are not the run's, one is taken for the run.
        process_memory_bytes: The most memory that the driver said the run's process holds at a sample, in bytes.
    """

    def __init__(self, card: Card | None, pid: int | None = None) -> None:
        self._card = card
        self._pid = os.getpid() if pid is None else pid
        self._energy_at_start: int | None = None
        self.energy_joules: float | None = None
        self.clock_mhz: tuple[int, int] | None = None
        self.throttle_reasons: tuple[str, ...] = ()
        self.foreign_processes: int | None = None
        self.process_memory_bytes: int | None = None

    def start(self) -> None:
        """Begin to count energy."""
        if self._card is not None:
            self._energy_at_start = self._card.energy_millijoules()

    def sample(self) -> None:
        """Look at clock, throttling and processes as they are now."""
        if self._card is None:
            return
        clock = self._card.sm_clock_mhz()
        if clock is not None:
            lowest, highest = self.clock_mhz or (clock, clock)
            self.clock_mhz = (min(lowest, clock), max(highest, clock))
        self.throttle_reasons = tuple(sorted({*self.throttle_reasons, *self._card.throttle_reasons()}))
        self._look_at_processes(self._card)

    def finish(self) -> None:
        """End counting energy."""
        if self._card is None:
            return
        end = self._card.energy_millijoules()
        if self._energy_at_start is not None and end is not None and end > self._energy_at_start:
            self.energy_joules = (end - self._energy_at_start) / 1000.0

    def _look_at_processes(self, card: Card) -> None:
        seen = card.processes() or ()
        own = [process.memory_bytes for process in seen if process.pid == self._pid]
        foreign = len({process.pid for process in seen}) - 1
        if not own and foreign < 1:
            return
        self.foreign_processes = max(foreign, self.foreign_processes or 0)
        held = [memory for memory in own if memory is not None]
        if held:
            self.process_memory_bytes = max(sum(held), self.process_memory_bytes or 0)
