"""What threads that work one after the other leave in memory."""

import subprocess
import sys

import pytest

WORK = """
import sys, threading
from ftlab.base.heap import use_one_heap

if sys.argv[1] == "one":
    use_one_heap()

def peak():  # not of getrusage, which begins with what the parent has
    told = open("/proc/self/status").read()
    return int(told.split("VmHWM:")[1].split()[0]) / 1024

def step():
    blocks = [bytearray(100_000) for _ in range(1_000)]
    kept.append(bytearray(5_000))  # behind them, so that their heap cannot be given back from its end

def work(has_stepped):
    step()
    has_stepped.set()
    leave.wait()

kept, leave, peaks = [], threading.Event(), []
for _ in range(5):
    has_stepped = threading.Event()
    threading.Thread(target=work, args=(has_stepped,)).start()
    has_stepped.wait()
    peaks.append(peak())
leave.set()
print(peaks[0], peaks[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_threads_that_work_one_after_the_other_need_the_memory_of_one():
    def peaks(heaps: str) -> tuple[float, float]:
        """MiB, after the first thread's step and after the last one's."""
        done = subprocess.run([sys.executable, "-c", WORK, heaps], capture_output=True, text=True, check=True)
        first, last = map(float, done.stdout.split())
        return first, last

    first, last = peaks("each its own")
    assert last > first + 200, "what this is about"
    first, last = peaks("one")
    assert last < first + 10


BLOCKS = """
import resource, sys
from ftlab.base.heap import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    for block in [bytearray(48 * 2**20) for _ in range(2)]:
        block[::4096] = b"1" * 12_288

step()
before = pages()
step()
step()
print(pages() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_every_step_needs_is_taken_from_the_system_once():
    def pages(memory: str) -> int:
        """Taken by two steps that come after the first."""
        done = subprocess.run([sys.executable, "-c", BLOCKS, memory], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert pages("as glibc has it") > 40_000, "what this is about: 4 blocks of 12,288 pages"
    assert pages("kept") < 1_000


GARBAGE = """
import gc, weakref
from ftlab.base.heap import collect_seldom, leave_imports_uncollected

class Trainer:
    def __init__(self):
        self.callback = self

usual = gc.get_threshold()
collect_seldom()
assert gc.get_threshold() > usual
leave_imports_uncollected()
assert gc.get_threshold() == usual
passed_over = gc.get_freeze_count()
gone = weakref.ref(Trainer())
leave_imports_uncollected()
assert gc.get_freeze_count() == passed_over > 1000
gc.collect()
assert gone() is None
"""


def test_what_comes_after_the_imports_is_collected_as_ever():
    """Also after the second phase, or the second run, of a process has asked for the same."""
    subprocess.run([sys.executable, "-c", GARBAGE], check=True)
