"""Laws of the grader of mathematics: equal expressions are right, and hostile ones cost themselves only."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from saccade.grading import Verdict, grade_math, math_pool, math_worker
from saccade.grading.latex import evaluate, normal
from saccade.grading.math_pool import MathPool
from saccade.workers.process import Worker, WorkerLost, WorkerSilent

FAST = {"math: exact", "math: numeric", "math: unit", "math: date", "math: empty", "math: length", "math: parts"}


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("12", "12", True),
        ("12.0", "12", True),
        ("1/2", "0.5", True),
        (r"\frac{1}{2}", "1/2", True),
        (r"\dfrac12", r"\tfrac{1}{2}", True),
        (r"1\frac12", "1.5", True),
        ("4/8", "1/2", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"2\sqrt3", "3.46", True),  # at the precision that the gold states
        ("3.46", r"2\sqrt{3}", False),
        ("0.33", "1/3", False),
        ("0.333333", "1/3", True),
        ("3.0001", "3", False),
        ("1000001", "1000000", False),
        ("1,000", "1000", True),
        ("1e3", "1000", True),
        ("10^5", "100000", True),
        ("x = 5", "5", True),
        ("The answer is 5.", "5", True),
        (r"\boxed{5}", "5", True),
        (r"$\left(1+2\right)$", "3", False),
        (r"1+2=\left(3\right)", "3", True),
        (r"\frac{\pi}{3}", r"\pi/3", True),
        ("12 cm", "12", True),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("60°", "60", True),
        (r"60^\circ", "60", True),
        ("5厘米", "5", True),
        ("2023-01-01", "2021", False),
        ("", "3", False),
        (r"\boxed{}", "3", False),
        ("9" * 3000, "3", False),
        ("-(2+3)^2", "-25", True),
        ("seven", "7", True),
        ("10**10**10", "7", False),
        ("9^{9^{9^{9}}}", "7", False),
        ("2^3^2", "512", True),
        ("(2^{10^{9}}+1)*3", "7", False),
        ("七", "7", True),
        ("B", "7", False),
        ("x", "7", False),
        ("12", "12 cm", True),
        ("120 mm", "12 cm", True),
        ("12 mm", "12 cm", False),
        ("12 kg", "12 cm", False),
        ("0.12 m^2", r"1200\text{ cm}^2", True),
        (r"2\sqrt3 cm", r"2\sqrt{3}", True),
        (r"AB=5\text{ cm}", "5", True),
        (r"\angle A = 30^\circ", "30", True),
        (r"\$12", "12", True),
        ("0.5", "50%", True),
        ("50", r"50\%", True),
        ("5", "50%", False),
        ("3:4", "6/8", True),
        ("0.4", "12:30", False),
        ("12:30", "12:30", True),
        ("sqrt(12)", r"2\sqrt{3}", True),
        ("(1,2)", "[1,2]", False),
        ("1<x<2", "(1,2)", True),
        ("(1,2)", "1<x<2", True),
        (r"x \ge 2", r"[2,\infty)", True),
        ("x > 2", r"[2,\infty)", False),
        ("2 < x", r"(2,+\infty)", True),
        (r"(-\infty,1)\cup(2,\infty)", r"x<1 \text{ or } x>2", True),
        (r"x\in[2,3]", "[2,3]", True),
        (r"\{2,1\}", r"\{1,2\}", True),
        ("{1,2,3}", "3, 2, 1", True),
        ("2, 1", "1, 2", True),
        ("(2,1)", "(1,2)", False),
        ("(0.5, 1)", r"(\frac12, 1)", True),
        (r"\pm 2", "2,-2", True),
        ("x=1 or x=2", "1, 2", True),
        ("x=1", "1, 2", False),
        ("3 or 4", "3", False),
        ("3, 4", "3", False),
        ("0.3", "0.30000000000000004", True),
        ("3.30", "3.3000000000000003", True),
        ("1", "0.9999999999999999", True),
        ("0.9999999999999999", "1", False),
        ("0.1", "0.10000000149011612", False),
        ("0.123456789012345", "0.1234567890123456", False),
        ("1000000000000000", "1000000000000001", False),
        ("1, 2, 3", "1, 2", False),
        (r"\boxed{1} and \boxed{2}", "1, 2", True),
        (r"\boxed{1} and \boxed{2}", "2", True),
        ("3", "", None),
    ],
)
def test_plain_answers_need_no_process(answer, gold, right, monkeypatch):
    monkeypatch.setattr(math_pool, "shared", lambda: pytest.fail("asked the pool"))
    assert grade_math(answer, gold).right is right


@pytest.mark.parametrize(
    "text", ["1/0", "9^9^9", "2^99999", "(" * 400, "(-8)^(1/3)", "1+", "", "x", "5%", "{1", "1 2" + "(" * 45]
)
def test_what_is_no_plain_arithmetic_has_no_value(text):
    assert evaluate(normal(text)) is None


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1, deadline_s=0.7, memory_mb=768) as one:
        yield one


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("(x+1)^2", "x^2+2x+1", True),
        ("(x+1)^2", "x^2+1", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("(1,2)", "(2,1)", False),
        ("7", "10**10**10", False),
        ("7", "9^{9^{9^{9}}}", False),
        ("7", "(10^{9})!", False),
        ("7", "(" * 300 + "1" + ")" * 300, False),
        (r"\frac{", "1", None),
        ("3", "3", True),
        ("y=2x+1", "2x-y+1=0", True),
        ("y=2x+1", "2x-y+2=0", False),
        ("5", "import os", False),
        ("5", "print(5)", False),
    ],
)
def test_expressions_are_compared_symbolically_and_towers_cost_themselves_only(pool, gold, answer, right):
    assert pool.verify(gold, answer).right is right


def the_worker(pool: MathPool) -> int:
    """The process id of the one idle worker."""
    return pool.workers.idle[-1].pid


def test_a_worker_that_hangs_or_dies_is_replaced(pool):
    assert pool.verify("3", "3").right is True
    os.kill(the_worker(pool), signal.SIGSTOP)
    waiting = MathPool._verify
    pool._deadline_s, before = 0.02, pool._deadline_s  # 0.1 s on the clock for the stopped worker
    hung = waiting(pool, "3", "3")
    pool._deadline_s = before
    assert hung.right is None and "no answer in" in hung.detail
    assert pool.verify("3", "4-1").right is True
    os.kill(the_worker(pool), signal.SIGKILL)
    time.sleep(0.05)
    assert pool.verify("3", "2+1").right is True


def test_a_memory_bomb_meets_the_limit_of_its_process(pool):
    assert pool.verify("3", "5-2").right is True
    assert resource.prlimit(the_worker(pool), resource.RLIMIT_AS) == (768 << 20, 768 << 20)
    assert pool.verify("7", "2^{2^{36}}").right is False
    assert pool.verify("3", "6-3").right is True


def test_threads_share_the_pool_and_each_gets_its_own_verdict(pool):
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda n: pool.verify("x+1", f"1+x+{n % 3}-{n % 2}").right, range(24)))
    assert verdicts == [n % 3 == n % 2 for n in range(24)]


def test_the_pool_starts_nothing_until_asked_and_may_be_closed_and_used_again():
    lazy = MathPool(workers=2, deadline_s=1.0)
    assert lazy.workers.idle == []
    lazy.close()
    assert lazy.verify("x", "x").right is True
    pid = the_worker(lazy)
    lazy.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_pool_that_was_warmed_up_has_a_worker_ready_for_the_first_item():
    with MathPool(workers=1, deadline_s=1.0) as warm:
        warm.warm_up()
        until = time.monotonic() + 120
        while not warm.workers.idle:
            assert time.monotonic() < until, "no worker"
            time.sleep(0.02)
        pid = the_worker(warm)
        assert warm.verify("x+y", "y+x").right is True
        assert the_worker(warm) == pid


@pytest.mark.parametrize("options", [{"workers": 0}, {"deadline_s": 0}, {"memory_mb": 10}])
def test_an_impossible_pool_is_refused(options):
    with pytest.raises(ValueError, match="expected at least"):
        MathPool(**options)


def test_grading_works_from_a_thread_that_is_not_the_main_one():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(grade_math("x^2-1", "(x-1)(x+1)")))
    thread.start()
    thread.join()
    assert grade_math("Monday", "Tuesday").right is False  # a word is no expression, yet it can be graded
    assert grade_math("1", r"\frac{").right is None
    assert verdicts[0].right is True and verdicts[0].route not in FAST
    math_pool.shared().close()


def test_a_machine_too_busy_to_grade_gives_no_verdict_but_a_text_that_eats_its_time_is_wrong():
    class Lost:
        """A worker that reads the gold, and is then lost."""

        def __init__(self, lost: Exception) -> None:
            self.lost, self.said = lost, [{"gold": True}]

        status = -signal.SIGPROF
        jobs = 1

        def send(self, item: object) -> None: ...

        def kill(self) -> None: ...

        def receive(self, seconds: float) -> dict[str, bool]:
            if self.said:
                return self.said.pop()
            raise self.lost

    verdict, innocent = math_pool._ask(Lost(WorkerSilent("no answer in 60 s")), "3", "x", 60)
    assert verdict.right is None and not innocent
    verdict, innocent = math_pool._ask(Lost(WorkerLost("ended with status -27")), "3", "x", 60)
    assert verdict.right is False and not innocent


def test_a_gold_that_is_endless_or_too_long_costs_its_time_once(pool):
    endless = " cmnull," + '{{"' * 600
    first = pool.verify(endless, "1")
    assert first.right is None and first.route == "math: gold lost"
    assert [pool.verify(endless, answer) for answer in ("2", "3")] == [first] * 2
    assert not pool.workers.idle  # no worker was started for them
    assert grade_math("3", "1." * 1500).detail == "the gold has 3,000 characters, expected 2,000 at most"


def test_an_item_whose_worker_was_lost_to_others_is_asked_again(pool, monkeypatch):
    assert pool.verify("3", "3+0").right is True
    before = the_worker(pool)
    os.kill(before, signal.SIGKILL)
    monkeypatch.setattr(Worker, "alive", property(lambda worker: not worker._closed))  # nobody saw it die
    assert pool.verify("x+3", "3+x").right is True
    assert the_worker(pool) != before


def test_a_worker_that_has_grown_large_or_answered_many_items_ends_after_its_answer(monkeypatch):
    monkeypatch.setattr(math_worker, "MAX_ITEMS", 3)
    for largest_mb, said in ((1.0, 1), (1e6, 3)):
        answers = []
        math_worker.serve([("3", "3")] * 5, answers.append, 60.0, largest_mb)
        assert answers == [{"gold": True}, {"right": True}] * said


def test_a_worker_of_a_large_parent_is_not_taken_for_large_itself():
    ballast = b"x" * (500 << 20)
    with MathPool(workers=1, memory_mb=768) as one:
        assert one.verify("x+1", "1+x").right is True
        before = the_worker(one)
        assert one.verify("x+2", "2+x").right is True
        assert the_worker(one) == before and len(ballast) >> 20 == 500


def test_the_same_question_is_asked_once_and_no_verdict_is_not_remembered(monkeypatch):
    asked = []

    def answer(self, gold, said):
        asked.append(said)
        return Verdict(None if said == "busy" else True, "math: symbolic")

    monkeypatch.setattr(MathPool, "_verify", answer)
    one = MathPool()
    assert [one.verify("x", said).right for said in ("a", "a", "busy", "busy")] == [True, True, None, None]
    assert asked == ["a", "busy", "busy"]


def test_a_worker_can_write_no_file_and_start_no_process(pool):
    assert pool.verify("3", "7-4").right is True
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        assert resource.prlimit(the_worker(pool), limit) == (0, 0)


@pytest.mark.parametrize(
    ("dotted", "value", "other"),
    [(r"0.\dot{3}", "1/3", "0.3"), (r"0.1\dot6", "1/6", "0.16"), (r"0.\dot{1}4285\dot{7}", "1/7", "0.14")],
)
def test_dots_over_digits_repeat_them_on_both_sides(dotted: str, value: str, other: str) -> None:
    assert grade_math(dotted, value).right
    assert grade_math(value, dotted).right
    assert grade_math(dotted, other).right is False
