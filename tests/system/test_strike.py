#!/usr/bin/env python3
"""Canonical scenarios against the running server, struck at exactly the so-many-th call (strike.c).

    crash    killed before and after every step (a write, sync, name or send); then once more at each of them, and again at a
             step of the recovery
    io       an I/O call fails, once or with all behind it until the fault is mended: at each site (chain of callers) of each scenario
    memory   the same for allocations

Afterwards everything must come to its end: what was answered 250 is delivered or bounced, once; nothing is cut, refused or
bounced for a fault of ours, or taken unscanned.

    test_strike.py [crash|io|memory] [--seconds N] [--only SCENARIO] [--jobs N] [--state FILE] [--write]

Without a word: a slice of each kind, within a bounded time, the same each time but for how far it comes. With one: all points; what was done is kept in
--state, from which the same command goes on. --write puts the table into docs/durability.md. --play POINT plays one point again."""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, wait_until  # noqa: E402
from lib_campaign import Campaign  # noqa: E402
from lib_strike import ALLOCATION, COUNT, IO, KILL_AFTER, KILL_BEFORE, LIBRARY, PATIENCE_S, SCENARIOS, Place, Run  # noqa: E402

SLICE_S = 10            # of each kind, in a plain run of the tests
AT_LEAST_S = 20         # of it, when nothing was struck within that
SLICE = ('one', 'chunks', 'relayed')    # what it is taken from: they wait for nothing, and are soon measured
RECOVERY_STEPS = 100    # the longest that is struck: a start may write a whole spare segment behind them


def whole(run):
    """The scenario, when nothing has struck yet; True when it came to its end."""
    if run.scenario.begin == 'stop' and not run.gone():
        run.send_all()
        run.leave()
        return True
    run.play()
    return run.is_settled()


def counted(place, scenario, *how, **more):
    """The page of a run in which nothing strikes; it has to come to its end."""
    with Run(place, scenario) as run:
        run.begin(*how, **more)
        settled = whole(run)
        found = {**run.page.get(), 'sites': set(run.page.sites())}
        if run.gone():
            run.server.kill()
            run.start()
            settled = run.settle()
        if not settled or run.judge():
            raise AssertionError(f'{scenario.name} does not come to its end without a fault: {run.judge()}; {run.server.lines[-5:]}')
        return found


def finish(run, strikes):
    """From here on without a fault. Problems as text."""
    if run.gone():
        run.server.kill()
        run.start(from_start=True)
    run.recovered = min(run.page.get()['steps'], RECOVERY_STEPS)
    settled = run.settle()
    problems = run.judge(strikes)
    if not settled:
        answers = [(letter.token, letter.accepted, letter.refused, letter.tries) for letter in run.letters]
        problems.append(f'does not come to its end: {answers}; found {run.found()[:2]}; {" | ".join(run.server.lines[-3:])}')
    return problems


class Crash:
    name, about = 'crash', 'killed before or after a step'
    together = 1
    heads = ('steps', 'points', 'struck', 'not reached', 'struck again in recovery', 'at steps of it', 'problems')

    def measure(self, place, scenario):
        return max(counted(place, scenario, COUNT)['steps'] for _ in range(2))      # no two runs make quite as many

    def points(self, steps, claimed=None):
        return [('first', at, after) for at in range(1, steps + 1) for after in (0, 1)]

    def later(self, steps, results):
        """Each point once more, and a second strike in its recovery; which one, goes around."""
        firsts = [point for point in self.points(steps) if point in results and results[point]['struck']]
        ways = {point: 2 * max(1, results[point]['recovered']) for point in firsts}
        rounds = max([len(firsts), *ways.values()]) if firsts else 0
        found = []
        for number in range(rounds):
            point = firsts[number % len(firsts)]
            way = number % ways[point]
            found.append(('again', *point[1:], way // 2 + 1, way % 2))
        return list(dict.fromkeys(found))

    def strike(self, place, scenario, point):
        return [self.one(place, scenario, *point)]

    def one(self, place, scenario, phase, at, after, *second):
        with Run(place, scenario) as run:
            run.begin(KILL_AFTER if after else KILL_BEFORE, at)
            whole(run)
            run.page.arm(0)
            struck = run.page.get()
            what = f'killed {"after" if after else "before"} step {at} ({struck["what"]})'
            if not struck['struck']:
                return {'struck': False, 'what': what + ', which was not reached', 'problems': finish(run, 0)}
            run.server.process.wait(30)
            run.server.kill()
            reached = True
            if second:
                try:
                    run.start(KILL_AFTER if second[1] else KILL_BEFORE, second[0], from_start=True)
                    whole(run)
                except AssertionError:
                    if not run.page.get()['struck']:
                        raise
                run.server.kill()
                again = run.page.get()
                reached = bool(again['struck'])
                what += f' and {"after" if second[1] else "before"} step {second[0]} ({again["what"]}) of the recovery'
            problems = finish(run, 1 + len(second[:1]))
            return {'struck': reached, 'what': what, 'recovered': run.recovered, 'problems': problems}

    def row(self, course):
        steps = course.measure or 0
        firsts = [one for point, one in course.results.items() if point[0] == 'first']
        agains = {point: one for point, one in course.results.items() if point[0] == 'again' and one['struck']}
        beyond = sum(1 for point, one in course.results.items() if point[0] == 'first' and not one['struck'] and course.is_done(point))
        return (steps, 2 * steps, sum(one['struck'] for one in firsts), beyond, len(agains), len({point[3] for point in agains}), len(course.problems()))


class Failure:
    """An I/O call or an allocation. A point: a site, and whether all behind it fail as well."""

    together = 12       # strikes in one server's life, where the scenario is not about its beginning or end

    def __init__(self, name, about, mode, noun):
        self.name, self.about, self.mode = name, about, mode
        self.noun = noun
        self.heads = (noun + 's', 'sites', 'struck once', 'for ever', 'not reached', 'processes ended', 'problems')

    def measure(self, place, scenario):
        runs = [counted(place, scenario, self.mode, by_site=True) for _ in range(2)]
        return [max(run['calls' if self.mode == IO else 'allocations'] for run in runs), sorted(set.union(*(run['sites'] for run in runs)))]

    def points(self, measure, claimed=None):
        """Sites that no other scenario has; then, later, the rest."""
        sites = [site for site in measure[1] if claimed is None or site not in claimed]
        if claimed is not None:
            claimed.update(sites)
        return [(site, for_ever) for site in sites for for_ever in (0, 1)]

    def later(self, measure, results):
        return self.points(measure)

    def strike(self, place, scenario, *points):
        """Results, a point each. Strikes that leave the server running follow each other in it; the last may end it."""
        results = []
        with Run(place, scenario) as run:
            for site, for_ever in points:
                if results:
                    run.once_more(self.mode, bool(for_ever), by_site=True, site=site)
                else:
                    run.begin(self.mode, 0, bool(for_ever), by_site=True, site=site)
                    descriptors = run.descriptors()
                try:
                    results.append(self.outcome(run, site, for_ever))
                except (AssertionError, OSError) as wrong:
                    results.append({'struck': True, 'what': f'{self.noun} {site}', 'ended': False, 'problems': [str(wrong)]})
                if results[-1]['ended'] or results[-1]['problems']:
                    break
            if not results[-1]['ended'] and not results[-1]['problems'] and len(points) > 1:
                results[-1]['problems'] += run.leaks(descriptors)
        return results

    def outcome(self, run, site, for_ever):
        whole(run)
        run.page.arm(0)
        struck = run.page.get()
        if not struck['struck']:
            return {'struck': False, 'what': f'{self.noun} {site} not reached', 'ended': False, 'problems': finish(run, 0)}
        ended, last = run.gone(), ' | '.join(run.server.lines[-3:])
        problems = finish(run, 1)
        what = f'{struck["what"]} fails{" and all behind it" if for_ever else ""} at {site}'
        if problems:
            what += f', called by {run.page.callers()}{", the process ended: " + last if ended else ""}'
        return {'struck': True, 'what': what, 'ended': ended, 'problems': problems}

    def row(self, course):
        calls, sites = course.measure or (0, [])
        struck = {point: one for point, one in course.results.items() if one['struck']}
        beyond = sum(1 for point, one in course.results.items() if not one['struck'] and course.is_done(point))
        return (calls, len(sites), sum(1 for point in struck if not point[1]), sum(1 for point in struck if point[1]), beyond,
                sum(one['ended'] for one in struck.values()), len(course.problems()))


KINDS = {kind.name: kind for kind in (Crash(), Failure('io', 'an I/O call fails', IO, 'I/O call'),
                                      Failure('memory', 'an allocation fails', ALLOCATION, 'allocation'))}


def report(kind, courses):
    """True when nothing was wrong and something was struck."""
    problems = [problem for course in courses for problem in course.problems()]
    struck = sum(one['struck'] for course in courses for one in course.results.values())
    for course in courses:
        if course.measure is not None:
            print(f'#   {course.scenario.name:16} ' + ', '.join(f'{value} {head}' for value, head in zip(kind.row(course), kind.heads)), flush=True)
    for problem in problems[:20]:
        print('    ' + problem)
    fine = not problems and struck > 0
    print(f'{"ok" if fine else "not ok"} {kind.about}: {struck} strikes in {sum(1 for course in courses if course.results)} scenarios, {len(problems)} problems', flush=True)
    return fine


def document(kind, courses):
    rows = [kind.row(course) for course in courses]
    lines = ['| scenario | what it is | ' + ' | '.join(kind.heads) + ' |', '|' + '---|' * (len(kind.heads) + 2)]
    lines += [f'| {course.scenario.name} | {course.scenario.about} | ' + ' | '.join(f'{value:,}' for value in row) + ' |' for course, row in zip(courses, rows)]
    lines += ['| **all** | | ' + ' | '.join(f'{sum(column):,}' for column in zip(*rows)) + ' |']
    begin, end = f'<!-- strike {kind.name} -->\n', f'<!-- end {kind.name} -->'
    path = os.path.join(ROOT, 'docs', 'durability.md')
    text = open(path, encoding='utf-8').read()
    before, after = text.split(begin)[0], text.split(end)[1]
    with open(path, 'w', encoding='utf-8') as file:
        file.write(before + begin + '\n'.join(lines) + '\n' + end + after)


def a_slice(kind, scenarios, seconds, options, chance):
    """One scenario after the other, each for its share of the time, in an order that is always the same. To measure one takes time as
    well, so on a slow machine there are fewer."""
    kind.together = min(kind.together, 4)       # what was begun is waited for
    with Campaign(kind, [one for one in scenarios if one.name in SLICE] or scenarios, None, options.jobs, chance) as campaign:
        end = time.monotonic() + seconds
        for course in campaign.courses:
            if time.monotonic() > end:
                break
            campaign.run(seconds / len(campaign.courses), [course])
        for course in campaign.courses:     # so slow a machine measures only: then a few strikes more, whatever they take
            if any(one['struck'] for other in campaign.courses for one in other.results.values()):
                break
            campaign.run(AT_LEAST_S, [course])
        return report(kind, campaign.courses)


def all_points(kind, scenarios, seconds, options, chance):
    with Campaign(kind, scenarios, options.state, options.jobs, chance) as campaign:
        if campaign.loaded:
            print(f'# {campaign.loaded} results were there', flush=True)
        campaign.run(seconds)
        fine = report(kind, campaign.courses)
        print(f'# {"all points were struck" if campaign.is_over() else "not all points were struck: the same command goes on"}; {round(campaign.seconds)} s in all', flush=True)
        if options.write:       # problems and all
            document(kind, campaign.courses)
        return fine


def play_one(kind, scenario, point):
    place = Place()
    try:
        print(json.dumps(kind.strike(place, scenario, tuple(point))[0], indent=1))
    finally:
        place.close()


def child_of(server, what):
    """The pid of the worker, or of the keeper of keys, which is the parent's own program still."""
    worker = server.worker_pid
    return worker if what == 'worker' else next(pid for pid in server.children() if pid != worker)


def fails_while_it_restarts(place, name, child, mode, what, **more):
    """A child of the parent dies, and for a moment its successor cannot be started as it should: it is tried until it is there."""
    with Run(place, next(one for one in SCENARIOS if one.name == name)) as run:
        run.start()
        fine = run.settle()         # and by now the parent knows that it runs
        pid = child_of(run.server, child)
        run.once_more(mode, True, **more)
        os.kill(pid, signal.SIGKILL)
        wait_until('the parent to fail at it', lambda: run.page.get()['struck'], PATIENCE_S)
        problems = [] if run.settle() and fine else [' | '.join(run.server.lines[-4:])]
        problems += run.judge()
    print(f'{"not ok" if problems else "ok"} {what}{": " if problems else ""}{"; ".join(problems)}', flush=True)
    return not problems


def restarts():
    place = Place()
    try:
        return [fails_while_it_restarts(place, 'one', 'worker', IO, 'a worker that was told the half of it is not waited for', only='sendmsg'),
                fails_while_it_restarts(place, 'secured', 'keeper', ALLOCATION, 'a keeper of keys that cannot be started is started later')]
    finally:
        place.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('kind', nargs='?', choices=list(KINDS))
    parser.add_argument('--seconds', type=float, help='of each kind')
    parser.add_argument('--only', help='one scenario')
    parser.add_argument('--play', type=json.loads, help='one point, as the state file has it')
    parser.add_argument('--jobs', type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument('--state', help='where results are kept')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--write', action='store_true')
    options = parser.parse_args()
    if not os.path.exists(LIBRARY) or not shutil.which('openssl'):
        print(f'SKIP {LIBRARY} is not built, or there is no openssl\n0 passed, 0 failed, 1 skipped')
        return 0
    scenarios = [one for one in SCENARIOS if not options.only or one.name == options.only]
    if not scenarios:
        sys.exit('no such scenario: ' + ', '.join(one.name for one in SCENARIOS))
    if options.play:
        play_one(KINDS[options.kind], scenarios[0], options.play)
        return 0
    chance = random.Random(options.seed)
    is_whole = options.kind and not options.seconds or options.state or os.environ.get('HOLDFAST_FULL')
    passed = failed = 0
    if not options.kind:
        fine = restarts()
        passed, failed = sum(fine), len(fine) - sum(fine)
    for kind in [KINDS[options.kind]] if options.kind else KINDS.values():
        if is_whole:
            fine = all_points(kind, scenarios, options.seconds or 86400, options, chance)
        else:
            fine = a_slice(kind, scenarios, options.seconds or SLICE_S, options, chance)
        passed, failed = passed + fine, failed + (not fine)
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    raise SystemExit(main())
