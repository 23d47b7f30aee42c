"""Times of one line: every backend checked, then timed in turn, round after round, so that a change of clocks meets all."""

import time

import torch

import backends
from check import Samples, accept

# Launches in a captured graph, for problems so short that queueing them from Python would be all that is seen.
CAPTURED = 20
# Launches queued without waiting to find what a call costs the host.
QUEUED = 200


class Runner:
    """One backend on one line."""

    def __init__(self, name, run):
        self.name, self.run, self.times, self.calls = name, run, [], 1
        self.host_us = self.graph = None
        self.captured = 1

    def once(self):
        """Microseconds of one launch in a row of `calls`, between two events."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(self.calls):
            self.graph.replay() if self.graph else self.run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / self.calls / self.captured

    def calibrate(self, milliseconds):
        """Chooses how many launches a round measures, and warms up with them."""
        self.calls = 2
        launches = self.once() * self.captured
        self.calls = max(1, min(500, round(milliseconds * 1e3 / launches)))
        self.once()

    def capture(self, runs=None):
        """Puts launches into a graph: `runs` one after another, or one launch again and again."""
        runs = runs or [self.run] * CAPTURED
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for run in runs:
                run()
        self.graph, self.captured = graph, len(runs)

    def time_host(self):
        """Notes what queueing a launch costs the host."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(QUEUED):
            self.run()
        self.host_us = (time.perf_counter() - start) / QUEUED * 1e6
        torch.cuda.synchronize()

    def result(self, line):
        ordered = sorted(self.times)
        middle = ordered[len(ordered) // 2]
        quarter = len(ordered) // 4
        spread = (ordered[-1 - quarter] - ordered[quarter]) / 2 / middle
        return {
            "median_us": middle,
            "spread": spread,
            "tflops": line.flops / middle * 1e-6,
            "rounds_us": self.times,
            "launches_a_round": self.calls,
            "host_us": self.host_us,
        }


def tensors(line, seed):
    """Random normal Q, K and V."""
    generator = torch.Generator("cuda").manual_seed(seed)
    dtype = getattr(torch, line.dtype)

    def normal(heads, dim):
        return torch.randn(line.batch, line.seq, heads, dim, device="cuda", dtype=dtype, generator=generator)

    return normal(line.heads, line.head_dim), normal(line.kv_heads, line.head_dim), normal(line.kv_heads, line.dv)


def prepare(line, names, seed, log):
    """The backends that can run a line and are right on it, and why the others are missing."""
    q, k, v = tensors(line, seed)
    samples = Samples(line, q, k, v, seed)
    runners, missing = [], {}
    for name in names:
        start = time.perf_counter()
        try:
            run = backends.BACKENDS[name](line, q, k, v)
            answer = run()
            accept(answer, samples.error(answer), samples.allowed)
            runner = Runner(name, run)
            if line.latency:
                runner.capture()
                runner.time_host()
            runners.append(runner)
        # Peers raise whatever their authors chose; a peer that fails is one that is not measured, and its reason is kept.
        except Exception as error:
            if name == backends.OURS:
                raise
            missing[name] = reason(error)
        log(f"  {name}: ready in {time.perf_counter() - start:.1f} s" + (f", {missing[name]}" if name in missing else ""))
    return runners, missing


def reason(error):
    """Why a peer is missing, in one line."""
    text = f"{error}".strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def take_turns(runners, rounds, milliseconds):
    """Times everybody, round after round."""
    for runner in runners:
        runner.calibrate(milliseconds)
    for turn in range(rounds):
        # Another one goes first each time: the first is after a pause, on a cooler device.
        first = turn % len(runners)
        for runner in runners[first:] + runners[:first]:
            runner.times.append(runner.once())


def every(problems, one, stop_at):
    """Each problem with what `one` gives for it, results and why others are missing; fewer when the time is over."""
    measured, told = [], set()
    for problem in problems:
        if time.perf_counter() > stop_at:
            print(f"{problem} and what follows: not measured, the time is over")
            break
        try:
            results, missing = one(problem)
        except torch.AcceleratorError as error:
            # A stray access of anybody has ended the context that all share.
            print(f"{problem} and what follows: not measured: {reason(error)}")
            break
        measured.append((problem, results, missing))
        for name, why in missing.items():
            if (name, why) not in told:
                print(f"{problem}: {name}: {why}", flush=True)
            told.add((name, why))
    return measured


def line(line, names, rounds, milliseconds, seed, log):
    """Results by backend, and the missing ones' reasons."""
    with torch.no_grad():
        runners, missing = prepare(line, names, seed, log)
        take_turns(runners, rounds, milliseconds)
        return {runner.name: runner.result(line) for runner in runners}, missing
