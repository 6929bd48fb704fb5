import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.runtime.procfs import ProcessSample, oom_kills, sample, waited_ms
from pipeline.runtime.restarts import restart_delay_ms


def test_a_process_that_works_uses_processor_time_and_memory() -> None:
    before = sample(os.getpid())
    total = sum(range(1_500_000))
    after = sample(os.getpid())
    assert total
    assert before is not None
    assert after is not None
    assert after.cpu_ms > before.cpu_ms
    assert after.state == "R"
    assert not after.is_stopped
    assert after.rss_bytes > 10_000_000
    assert after.runqueue_wait_ms >= before.runqueue_wait_ms


def test_a_stopped_process_is_told_from_a_sleeping_one_and_from_none() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        stopped = sample(process.pid)
        process.kill()
        process.wait()
        assert stopped is not None
        assert stopped.is_stopped
        assert sample(process.pid) is None


def test_names_with_brackets_and_spaces_do_not_shift_the_fields() -> None:
    name = Path(f"/proc/{os.getpid()}/comm")
    before, plain = name.read_text(), sample(os.getpid())
    name.write_text("a) Z 9 (b")
    try:
        seen = sample(os.getpid())
    finally:
        name.write_text(before)
    assert seen is not None
    assert plain is not None
    assert seen.state == "R"
    assert abs(seen.rss_bytes - plain.rss_bytes) < 10_000_000
    assert 0 <= seen.cpu_ms - plain.cpu_ms < 1000


_TWO_THREADS_ON_ONE_PROCESSOR = """
import hashlib, os, sys, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
data = bytes(100_000_000)
computed, told = threading.Barrier(3), threading.Barrier(3)
work = lambda: (hashlib.sha256(data), computed.wait(), told.wait())
for _ in range(2):
    threading.Thread(target=work).start()
computed.wait()
print("done", flush=True)
sys.stdin.read()
told.wait()
"""


def test_a_process_waits_for_a_processor_when_any_thread_of_its_engine_does() -> None:
    command = [sys.executable, "-c", _TWO_THREADS_ON_ONE_PROCESSOR]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        main_ms = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e6
        seen = sample(process.pid)
        process.communicate()
    assert seen is not None
    assert seen.runqueue_wait_ms > main_ms + 20


def test_the_first_restarts_are_at_once_the_next_ones_wait_longer_and_old_deaths_are_forgotten() -> None:
    delays = [restart_delay_ms([100.0] * count, 100.0) for count in range(1, 14)]
    assert delays[:4] == [0, 0, 50, 100]
    assert delays == sorted(delays)
    assert max(delays) == 5000
    assert restart_delay_ms([100.0] * 9, 161.0) == 0


def test_a_starved_worker_waits_even_while_the_kernel_has_not_counted_it_yet() -> None:
    before = ProcessSample("S", cpu_ms=100.0, runqueue_wait_ms=5.0, rss_bytes=1)
    starved = ProcessSample("R", cpu_ms=110.0, runqueue_wait_ms=5.0, rss_bytes=1)
    assert waited_ms(before, starved, 150.0) == 140.0


def test_a_busy_loop_does_not_wait_and_a_sleeper_waits_only_as_counted() -> None:
    before = ProcessSample("R", cpu_ms=100.0, runqueue_wait_ms=5.0, rss_bytes=1)
    assert waited_ms(before, ProcessSample("R", 245.0, 8.0, 1), 150.0) == 5.0
    assert waited_ms(before, ProcessSample("S", 100.0, 8.0, 1), 150.0) == 3.0


def test_kills_for_want_of_memory_are_counted_or_zero() -> None:
    assert oom_kills() >= 0
