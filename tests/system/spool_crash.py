#!/usr/bin/env python3
"""The spool under kill -9 and failing disks, step by step. strace kills the driver at the Nth call of each kind that touches the
disk (or lets that call fail); then the spool is opened again, sometimes killed while it recovers, and compared with what the
driver had said: every acknowledged message lives until it was settled, none lives twice, what was settled does not come back."""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DRIVER = os.path.join(os.environ.get('HOLDFAST_BUILD', os.path.join(ROOT, 'build')), 'tests/unit/spool_driver')
FULL = bool(os.environ.get('HOLDFAST_FULL'))
CALLS = ('pwritev', 'fdatasync', 'rename', 'pwrite64', 'fsync', 'openat', 'unlink', 'fallocate', 'mkdir')
SECONDS = 240 if FULL else 36
COUNT = 120
passed = failed = skipped = 0
seen = {'acked': 0, 'failed': 0}  # since the last report: shows that the faults struck where it matters


def report(name, problems, runs):
    global passed, failed
    if problems:
        failed += 1
        print(f'not ok {name}: {len(problems)} of {runs} runs')
        for line in problems[:5]:
            print('    ' + line)
    else:
        passed += 1
        print(f'ok {name} ({runs} runs, {seen["acked"]} messages acknowledged before, {seen["failed"]} refused)', flush=True)
    seen.update(acked=0, failed=0)


def drive(*words, inject=None, timeout=60):
    """Runs the driver, under strace when something is to be injected; its lines and its exit status."""
    command = [DRIVER, *map(str, words)]
    if inject:
        call = inject.split(':')[0]
        command = ['strace', '-f', '-qq', '-o', '/dev/null', '-e', f'trace={call}', '-e', f'inject={inject}', *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    return [line.split() for line in done.stdout.decode().split('\n') if line], done.returncode, done.stderr.decode()


class Said:
    """What a run of `work` claimed before it ended."""

    def __init__(self, lines):
        self.acked, self.failed, self.settling, self.settled, self.bounces = {}, {}, {}, {}, {}
        self.closed = ['closed'] in lines
        self.refused = any(line[0] == 'refused' for line in lines)
        self.admits = next((line[1] for line in lines if line[0] == 'admits'), None)
        for line in lines:
            word = line[0]
            if word == 'acked':
                self.acked[line[1]] = line[2]
            elif word == 'failed':
                self.failed[line[1]] = line[2]
            elif word in ('delivering', 'deferring', 'bouncing'):
                self.settling[line[1]] = word
                if word == 'bouncing':
                    self.bounces[line[1]] = line[2]
            elif word in ('delivered', 'deferred', 'bounced') and line[-1] == 'accepted':
                self.settled[line[1]] = word
        seen['acked'] += len(self.acked)
        seen['failed'] += len(self.failed)


def compare(said, lines, strict=False):
    """Problems between what was said and what lives."""
    lives = {line[1]: (line[2], int(line[3]), line[4]) for line in lines if line[0] == 'lives'}
    problems = []
    if not any(line[0] == 'checked' for line in lines):
        return [f'the spool does not open: {lines[-3:]}']
    for message, number in said.acked.items():
        fate = said.settled.get(message)
        if fate in ('delivered', 'bounced'):
            if message in lives:
                problems.append(f'{message} was {fate} and lives')
        elif message not in lives:
            if said.settling.get(message) not in ('delivering', 'bouncing'):
                problems.append(f'{message} was acknowledged and is lost')
        elif lives[message][0] != number:
            problems.append(f'{message} has the body of another')
        elif fate == 'deferred' and lives[message][1] < 1:
            problems.append(f'{message}: its deferral is forgotten')
    for message, (_, _, body) in lives.items():
        if body != 'whole':
            problems.append(f'{message} has a body that is {body}')
    for message, notice in said.bounces.items():
        gone, there = message not in lives, notice in lives or notice in said.settling
        if gone != there:
            problems.append(f'{message} and its notification {notice}: half of the group')
    numbers = [number for number, _, _ in lives.values() if int(number) < 1000000]
    if len(numbers) != len(set(numbers)):
        problems.append('a message lives twice')
    if strict:
        for number in said.failed:
            if number in numbers:
                problems.append(f'number {number} was answered 451 and lives')
    return problems


class Place:
    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix='holdfast-spool-')
        return os.path.join(self.path, 'spool')

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def kill_at(call, number, again):
    with Place() as spool:
        lines, status, _ = drive('work', spool, COUNT, inject=f'{call}:signal=KILL:when={number}')
        said = Said(lines)
        if said.closed:
            return None, []  # fewer calls than that
        if again:  # and once more while it recovers
            drive('check', spool, inject=f'{again}:signal=KILL:when={random.randint(1, 4)}')
        first, _, error = drive('check', spool)
        problems = compare(said, first)
        second, _, _ = drive('check', spool)
        if sorted(first) != sorted(second):
            problems.append('opened twice, read differently')
        return said, [f'{call} #{number} again={again}: {problem} {error[-200:] if "open" in problem else ""}' for problem in problems]


def kills():
    for call in CALLS:
        problems, runs, number = [], 0, 1
        until = time.monotonic() + SECONDS / len(CALLS)
        while time.monotonic() < until:
            again = random.choice(('', 'pwritev', 'fdatasync', 'rename', 'pwrite64'))
            said, found = kill_at(call, number, again)
            runs += 1
            problems += found
            if said is None:
                break
            number += 1 if number < 12 else random.randint(1, max(2, number // 4))
        report(f'killed at each {call}', problems, runs)


def errors():
    for call, error in (('fdatasync', 'EIO'), ('pwritev', 'EIO'), ('pwritev', 'ENOSPC'), ('fdatasync', 'ENOSPC')):
        problems, runs = [], 0
        for number in (range(3, 30) if FULL else (3, 4, 5, 8, 13, 21)):
            with Place() as spool:
                lines, status, stderr = drive('work', spool, COUNT, inject=f'{call}:error={error}:when={number}')
                said, runs = Said(lines), runs + 1
                if said.refused:
                    continue  # it failed while opening, and said so
                if status != 0 or not said.closed:
                    problems.append(f'{call} #{number}: the process ended ({status}) {stderr[-300:]}')
                if any(cause not in ('spool.failed', 'spool.full', 'spool.down') for cause in said.failed.values()):
                    problems.append(f'{call} #{number}: wrong cause {set(said.failed.values())}')
                first, _, _ = drive('check', spool)
                problems += [f'{call} #{number}: {problem}' for problem in compare(said, first, strict=True)]
        report(f'{call} fails once with {error}', problems, runs)
    for call in ('fdatasync', 'pwritev'):
        problems, runs = [], 0
        for number in (5, 9, 14):
            with Place() as spool:
                lines, status, stderr = drive('work', spool, COUNT, inject=f'{call}:error=EIO:when={number}+')
                said, runs = Said(lines), runs + 1
                if not said.refused and (status != 0 or not said.closed):
                    problems.append(f'{call} #{number}+: the process ended ({status}) {stderr[-300:]}')
                if said.failed and said.admits not in ('spool.down', 'spool.failed'):
                    problems.append(f'{call} #{number}+: admits {said.admits}')
                first, _, _ = drive('check', spool)
                problems += [f'{call} #{number}+: {problem}' for problem in compare(said, first)]
        report(f'{call} fails for ever', problems, runs)


def main():
    global skipped
    if not os.path.exists(DRIVER) or not shutil.which('strace'):
        print('SKIP spool_crash: ' + ('no strace' if os.path.exists(DRIVER) else f'{DRIVER} is not built'))
        skipped += 1
    elif subprocess.run(['strace', '-qq', '-o', '/dev/null', 'true'], stderr=subprocess.DEVNULL).returncode != 0:
        print('SKIP spool_crash: strace may not trace here')
        skipped += 1
    else:
        random.seed(int(os.environ.get('SEED', '1')))
        with Place() as spool:
            lines, status, error = drive('work', spool, COUNT)
            first, _, _ = drive('check', spool)
            report('without a fault', compare(Said(lines), first, strict=True) if status == 0 else [error], 1)
        kills()
        errors()
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
