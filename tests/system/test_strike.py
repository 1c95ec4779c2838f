#!/usr/bin/env python3
"""Twenty canonical scenarios against the running server, struck at exactly the so-many-th call (strike.c).

    crash    killed before and after every step (a write, sync, name or send), and often once more while it recovers
    io       one I/O call fails, or every one from there on until the fault is mended
    memory   the same for allocations

Afterwards everything must come to its end: what was answered 250 is delivered or bounced, once; nothing is cut, refused or
bounced for a fault of ours, or taken unscanned. `test_strike.py [crash|io|memory] [--seconds N] [--only SCENARIO] [--write]`; without a
word a slice of each, within a bounded time, from a seed of the day. With --write the table goes into docs/durability.md."""
import argparse
import datetime
import os
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT  # noqa: E402
from lib_strike import ALLOCATION, COUNT, IO, KILL_AFTER, KILL_BEFORE, LIBRARY, SCENARIOS, Place, Run  # noqa: E402

SLICE_S = 25            # of each kind, in a plain run of the tests
RECOVERY_STEPS = 60
KINDS = {'crash': 'killed before or after a step', 'io': 'an I/O call fails', 'memory': 'an allocation fails'}


class Row:
    def __init__(self, scenario):
        self.scenario, self.total, self.tried, self.struck, self.again, self.ended, self.problems = scenario, 0, set(), 0, 0, 0, []


def measure(place, scenario, kind):
    """How many steps, calls or allocations the scenario makes when nothing strikes; it must come to its end."""
    with Run(place, scenario) as run:
        run.start(ALLOCATION if kind == 'memory' else COUNT)
        run.play(20)
        counted = run.page.get()
        settled = run.settle(20)
        problems = run.judge()
        if not settled or problems:
            raise AssertionError(f'{scenario.name} does not come to its end without a fault: {problems or "not settled"}; {run.server.lines[-5:]}')
        return counted[{'crash': 'steps', 'io': 'calls', 'memory': 'allocations'}[kind]]


def restart_struck(run, chance):
    """One start that is killed while it recovers, or soon after. True when it was."""
    try:
        run.start(KILL_BEFORE, chance.randint(1, RECOVERY_STEPS), from_start=True)
        run.play(1)
    except AssertionError:
        pass
    run.server.kill()
    return run.page.get()['struck'] > 0


def finish(run, row, strikes, what):
    """From here on without a fault."""
    if run.gone():
        run.server.kill()
        run.start()
    settled = run.settle()
    problems = run.judge(strikes)
    if not settled:
        answers = [(letter.token, letter.accepted, letter.refused, letter.tries) for letter in run.letters]
        problems.append(f'does not come to its end: {answers}; found {run.found()[:2]}')
    row.problems += [f'{run.scenario.name}: {what}: {problem}' for problem in problems]
    return not problems


def crash(place, scenario, row, at, after, chance):
    with Run(place, scenario) as run:
        run.start(KILL_AFTER if after else KILL_BEFORE, at)
        run.play()
        struck = run.page.get()
        if not struck['struck']:
            return
        row.struck += 1
        run.server.process.wait(30)
        run.server.kill()
        strikes, what = 1, f'killed {"after" if after else "before"} step {at} ({struck["what"]})'
        if chance.random() < 0.5:
            if restart_struck(run, chance):
                row.again += 1
                what += f' and before step {run.page.get()["what"]} of the recovery'
            strikes += 1
        finish(run, row, strikes, what)


def failure(place, scenario, row, kind, at, for_ever):
    with Run(place, scenario) as run:
        run.start(IO if kind == 'io' else ALLOCATION, at, for_ever)
        run.play(1.0 if for_ever else 2.0)
        struck = run.page.get()
        run.page.arm(0)
        if not struck['struck']:
            return
        row.struck += 1
        row.ended += run.gone()
        noun = 'call' if kind == 'io' else 'allocation'
        finish(run, row, 1, f'{noun} {at} ({struck["what"]}) fails{" and all behind it" if for_ever else ""}'
               f'{", the process ended: " + " | ".join(run.server.lines[-3:]) if run.gone() else ""}')


def points(row, kind, chance):
    """The next point to strike, as (at, the other choice), none twice; None when all were."""
    left = 2 * row.total - len(row.tried)
    if left <= 0:
        return None
    while True:
        point = (chance.randint(1, row.total), chance.random() < 0.5)
        if point not in row.tried:
            row.tried.add(point)
            return point


def strike(kind, scenarios, seconds, chance):
    """Strikes every scenario in turn until all points were tried or the time is over."""
    place, rows, end = Place(), [], time.monotonic() + seconds
    try:
        for scenario in chance.sample(scenarios, len(scenarios)):
            row = Row(scenario)
            rows.append(row)
            if time.monotonic() > end:
                continue
            row.total = measure(place, scenario, kind)
            share = time.monotonic() + max(1, (end - time.monotonic()) / (len(scenarios) - len(rows) + 1))
            while time.monotonic() < share:
                point = points(row, kind, chance)
                if not point:
                    break
                try:
                    if kind == 'crash':
                        crash(place, scenario, row, *point, chance)
                    else:
                        failure(place, scenario, row, kind, *point)
                except AssertionError as wrong:
                    if 'Address already in use' not in str(wrong):      # somebody else took the port of the page
                        raise
    finally:
        place.close()
    return sorted(rows, key=lambda row: SCENARIOS.index(row.scenario))


def report(kind, rows):
    """True when nothing was wrong and something was struck."""
    problems = [problem for row in rows for problem in row.problems]
    struck = sum(row.struck for row in rows)
    for row in rows:
        if row.total:
            print(f'#   {row.scenario.name:16} {row.total:6} {"steps" if kind == "crash" else "calls" if kind == "io" else "allocations"}, {row.struck:4} struck, '
                  f'{row.again:3} again in recovery, {row.ended:3} processes ended, {len(row.problems)} problems', flush=True)
    for problem in problems[:20]:
        print('    ' + problem)
    fine = not problems and struck > 0
    print(f'{"ok" if fine else "not ok"} {KINDS[kind]}: {struck} strikes in {sum(1 for row in rows if row.struck)} scenarios, {len(problems)} problems', flush=True)
    return fine


HEADS = {'crash': ('steps', 'struck', 'again in recovery'), 'io': ('I/O calls', 'struck', 'processes ended'), 'memory': ('allocations', 'struck', 'processes ended')}


def document(kind, rows):
    first, second, third = HEADS[kind]
    lines = [f'| scenario | what it is | {first} | {second} | {third} | problems |', '|---|---|---|---|---|---|']
    lines += [f'| {row.scenario.name} | {row.scenario.about} | {row.total} | {row.struck} | {row.again if kind == "crash" else row.ended} | {len(row.problems)} |' for row in rows]
    begin, end = f'<!-- strike {kind} -->\n', f'<!-- end {kind} -->'
    path = os.path.join(ROOT, 'docs', 'durability.md')
    text = open(path, encoding='utf-8').read()
    before, after = text.split(begin)[0], text.split(end)[1]
    with open(path, 'w', encoding='utf-8') as file:
        file.write(before + begin + '\n'.join(lines) + '\n' + end + after)


def can_strike():
    if not os.path.exists(LIBRARY):
        return f'{LIBRARY} is not built'
    if not shutil.which('cp'):
        return 'no cp'
    return ''


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('kind', nargs='?', choices=list(KINDS))
    parser.add_argument('--seconds', type=float, help='of each kind')
    parser.add_argument('--only', help='one scenario')
    parser.add_argument('--at', type=int, help='this point alone, both ways')
    parser.add_argument('--seed', type=int, default=datetime.date.today().toordinal())
    parser.add_argument('--write', action='store_true')
    options = parser.parse_args()
    why = can_strike()
    if why:
        print(f'SKIP {why}\n0 passed, 0 failed, 1 skipped')
        return 0
    scenarios = [one for one in SCENARIOS if not options.only or one.name == options.only]
    if not scenarios:
        sys.exit('no such scenario: ' + ', '.join(one.name for one in SCENARIOS))
    chance = random.Random(options.seed)
    passed = failed = 0
    for kind in [options.kind] if options.kind else KINDS:
        if options.at:
            row, place = Row(scenarios[0]), Place()
            for other in (False, True):
                if kind == 'crash':
                    crash(place, scenarios[0], row, options.at, other, chance)
                else:
                    failure(place, scenarios[0], row, kind, options.at, other)
            place.close()
            row.total = options.at
            rows = [row]
        else:
            full = 1500 if os.environ.get('HOLDFAST_FULL') else SLICE_S
            rows = strike(kind, scenarios, options.seconds or full, chance)
        fine = report(kind, rows)
        passed, failed = passed + fine, failed + (not fine)
        if options.write and fine:
            document(kind, rows)
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    raise SystemExit(main())
