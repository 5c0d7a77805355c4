"""What the server does about a fault, how to switch that off, and the test that has to notice."""

from pathlib import Path
from typing import Final, NamedTuple

#: The root of the repository.
ROOT: Final = Path(__file__).parents[2]

_FAULTS: Final = "tests/deterministic/test_faults.py"


class Mutant(NamedTuple):
    """A fault whose handling is switched off by a change of the source.

    ``text`` stands exactly once in ``file``, a path below ``src/superserve``; ``replacement`` goes in its place.
    """

    fault: str
    file: str
    text: str
    replacement: str
    test: str

    def apply(self, source: Path) -> None:
        """Change a copy of the package."""
        path = source / self.file
        before = path.read_text()
        assert before.count(self.text) == 1, f"{self.file} has {self.text!r} {before.count(self.text)} times"
        path.write_text(before.replace(self.text, self.replacement))


def _mutant(fault: str, file: str, text: str, replacement: str, test: str) -> Mutant:
    return Mutant(fault, file, text, replacement, f"{_FAULTS}::{test}")


MUTANTS: Final = (
    _mutant(
        "a worker dies with a batch",
        "scheduling/scheduler.py",
        "again.append(request)",
        "actions.append(self._finish(request, Outcome.FAILED, Reason.WORKER_LOST))",
        "test_the_batch_of_a_lost_worker_runs_on_another",
    ),
    _mutant(
        "a worker hangs",
        "serving/watchdog.py",
        "self._on_hang(patience_ns)",
        "pass",
        "test_a_worker_that_hangs_is_found",
    ),
    _mutant(
        "a worker hangs with two batches",
        "scheduling/flights.py",
        "self.first[worker] = self.second.pop(worker)",
        "del self.second[worker]",
        "test_both_batches_of_a_worker_that_hangs_are_run_again",
    ),
    _mutant(
        "a worker sends what is no message",
        "serving/worker_process.py",
        'self.distrust(f"sent garbage: {error}")',
        "pass",
        "test_a_worker_that_answers_garbage_is_ended",
    ),
    _mutant(
        "a worker sends a message that makes no sense",
        "serving/local_incarnation.py",
        'self._process.distrust(f"sent what makes no sense: {message!r}")',
        "pass",
        "test_a_worker_that_answers_garbage_is_ended",
    ),
    _mutant(
        "an input kills workers",
        "scheduling/poison.py",
        "return len(batch) == 1 and batch[0].losses > 0",
        "return False",
        "test_an_input_that_kills_is_given_up_after_its_second_victim",
    ),
    _mutant(
        "an input kills workers, others in its batch do not",
        "scheduling/poison.py",
        "request.alone = alone",
        "request.alone = False",
        "test_an_input_that_kills_is_given_up_after_its_second_victim",
    ),
    _mutant(
        "a batch raises",
        "serving/supervisor.py",
        "self._listener.on_batch_failed(self._number, answer.message)",
        "pass",
        "test_a_batch_that_raises_fails_alone",
    ),
    _mutant(
        "a worker dies whenever it starts",
        "serving/supervisor.py",
        "self._backoff_ns = min(2 * self._backoff_ns, _LAST_BACKOFF_NS)",
        "pass",
        "test_a_worker_that_does_not_start_is_tried_less_and_less_often",
    ),
    _mutant(
        "a worker never gets ready",
        "serving/local_incarnation.py",
        'self.end_within(limit_ns, "was not ready in time")',
        "pass",
        "test_a_worker_that_could_not_start_is_started_again",
    ),
    _mutant(
        "the operating system refuses a process",
        "serving/supervisor.py",
        "(the operating system's words say it all)\n            self._schedule_restart()",
        "",
        "test_a_worker_that_could_not_start_is_started_again",
    ),
    _mutant(
        "all workers are dead",
        "scheduling/scheduler.py",
        "return Reason.NO_WORKER",
        "pass",
        "test_without_a_worker_requests_are_refused",
    ),
    _mutant(
        "a deadline cannot be met",
        "scheduling/scheduler.py",
        "return Reason.INFEASIBLE",
        "pass",
        "test_what_cannot_be_in_time_is_refused_when_it_comes",
    ),
    Mutant(
        "a machine was slow for a while",
        "scheduling/scheduler.py",
        "self._overhead.relax()",
        "pass",
        "tests/scheduling/test_scheduler.py::test_a_machine_that_was_slow_is_not_refused_work_for_good",
    ),
    _mutant(
        "a deadline passes while its request waits",
        "serving/router.py",
        "self._timer = self._clock.call_at(due_ns, self._on_timer)",
        "self._timer = self._clock.call_at(2 * due_ns, self._on_timer)",
        "test_what_waits_in_vain_is_answered_when_that_is_certain",
    ),
    _mutant(
        "a client leaves",
        "frontend/http.py",
        "exchange.work.cancel()",
        "pass",
        "test_what_a_client_has_left_behind_is_not_run",
    ),
    _mutant(
        "a client leaves while its request waits",
        "scheduling/scheduler.py",
        "if request.state is _QUEUED:\n            self._queue.remove(request)",
        "if request.state is _QUEUED:\n            pass",
        "test_what_a_client_has_left_behind_is_not_run",
    ),
    _mutant(
        "an urgent request comes last",
        "scheduling/queue.py",
        "insort(entries, entry, lo=self._first)",
        "entries.append(entry)",
        "test_the_most_urgent_request_runs_first",
    ),
    _mutant(
        "an urgent request of another model comes last",
        "scheduling/workers.py",
        "return min(schedulers,",
        "return max(schedulers,",
        "test_the_most_urgent_request_of_all_models_runs_first",
    ),
    _mutant(
        "too many requests wait",
        "scheduling/scheduler.py",
        "return Reason.QUEUE_FULL",
        "pass",
        "test_no_more_than_so_many_requests_wait",
    ),
    _mutant(
        "a body is too large",
        "frontend/http.py",
        "limit = self._config.max_body_bytes\n",
        "return\n",
        "test_a_body_is_no_larger_than_it_may_be",
    ),
    _mutant(
        "bodies fill the memory",
        "frontend/body_memory.py",
        "if self.held + size > self.limit:",
        "if False:",
        "test_all_bodies_together_are_no_larger_than_they_may_be",
    ),
    _mutant(
        "too many clients come",
        "frontend/http_server.py",
        "if len(self._connections) >= self._config.max_connections:",
        "if False:",
        "test_no_more_than_so_many_clients_are_connected",
    ),
    _mutant(
        "a client never sends the end of its request",
        "frontend/http.py",
        'self._reject(408, f"the request was not complete after {self._config.read_timeout_s:g} s")',
        "pass",
        "test_all_bodies_together_are_no_larger_than_they_may_be",
    ),
    _mutant(
        "a client does not read its answers",
        "frontend/http.py",
        "elif self._lingering_since_ns is not None or not self._writable:",
        "elif self._lingering_since_ns is not None:",
        "test_a_client_that_does_not_read_is_cut_off",
    ),
    _mutant(
        "the server is told to stop",
        "serving/router.py",
        "if self._unfinished and timeout_s > 0:",
        "if False:",
        "test_what_was_admitted_is_answered_before_the_end",
    ),
    _mutant(
        "a model is unloaded with requests under way",
        "serving/shared_pool.py",
        "if len(self._routers) > 1 and router.scheduler.in_flight:",
        "if False:",
        "test_a_model_leaves_with_a_batch_under_way",
    ),
)
