"""A campaign of strikes: every point of every scenario, several at a time, in an order by chance, and what came of each kept in
a file, so that it goes on where it ended.

    with Campaign(Crash(), SCENARIOS, state='torture-crash.state', jobs=4, chance=Random(1)) as campaign:
        campaign.run(seconds=600)
    for course in campaign.courses: ...         # what was found, scenario by scenario

A kind (test_strike.py) says what the points are: `measure(place, scenario)` -> a measure, `points(measure, claimed)` -> the first
points (`claimed` is a set in which a kind may keep what other scenarios have), `later(measure, results)` -> points that follow when
those are done, `strike(place, scenario, *points)` -> what came of each, of `together` at most."""
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import subprocess
import time

from lib import HOLDFAST
from lib_strike import LIBRARY, SCENARIOS, Place

TRIES = 3       # for a point that was not reached: not every run makes as many calls
place = None    # of this process


def build_of():
    """Which build is struck: results of another one are not mixed with it."""
    digest = hashlib.sha256()
    for path in (HOLDFAST, LIBRARY):
        with open(path, 'rb') as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _begin(folder):
    global place
    place = Place(folder)


def _some(kind, number, points):
    """In a process of the pool. A result for each of the points, or of the first ones; no point: measures."""
    for attempt in range(4):
        try:
            return kind.strike(place, SCENARIOS[number], *points) if points else kind.measure(place, SCENARIOS[number])
        except (AssertionError, OSError, subprocess.SubprocessError) as wrong:
            if 'Address already in use' in str(wrong) and attempt < 3:      # somebody else's port
                continue
            if not points:
                return str(wrong)
            return [{'struck': True, 'what': f'at {list(points)}', 'recovered': 1, 'ended': False, 'problems': [str(wrong)]}]
    return None


class Course:
    """One scenario's way through its points."""

    def __init__(self, kind, scenario):
        self.kind, self.scenario = kind, scenario
        self.measure, self.measuring, self.queue, self.out, self.stage = None, False, [], 0, 0
        self.results = {}       # point -> what came of the last try
        self.tries = {}
        self.first = None       # the points of stage 0
        self.wrong = []         # what is wrong without a strike

    def is_done(self, point):
        return point in self.results and (self.results[point]['struck'] or self.tries[point] >= TRIES)

    def add(self, point, result):
        self.tries[point] = self.tries.get(point, 0) + 1
        self.results[point] = result

    def fill(self, chance, claimed):
        """Queues what is to be done next; nothing while something is out whose result it depends on."""
        if self.measure is None or self.queue or self.out:
            return
        while self.stage < 2 and not self.queue:
            self.first = self.kind.points(self.measure, claimed) if self.first is None else self.first
            wanted = self.first if self.stage == 0 else self.kind.later(self.measure, self.results)
            self.queue = [point for point in wanted if not self.is_done(point)]
            if not self.queue:
                self.stage += 1
        chance.shuffle(self.queue)

    def next(self, chance, claimed):
        """[] to measure, points, or None when there is nothing to do now. One that was not reached among others is struck alone."""
        if self.measure is None:
            if self.measuring:
                return None
            self.measuring = True
            return []
        self.fill(chance, claimed)
        points = [self.queue.pop()] if self.queue else []
        while points and points[0] not in self.tries and not self.scenario.begin and self.queue and len(points) < self.kind.together:
            if self.queue[-1] in self.tries:
                break
            points.append(self.queue.pop())
        return points or None

    def is_over(self):
        return self.stage == 2 and not self.queue and not self.out

    def problems(self):
        return self.wrong + [f'{self.scenario.name}: {result["what"]}: {problem}' for result in self.results.values() for problem in result['problems']]


class Campaign:
    def __init__(self, kind, scenarios, state, jobs, chance):
        self.kind, self.chance, self.jobs = kind, chance, jobs
        self.courses = [Course(kind, scenario) for scenario in scenarios]
        self.by_name = {course.scenario.name: course for course in self.courses}
        self.place, self.file, self.loaded, self.seconds, self.claimed = Place(), None, 0, 0.0, set()
        if state:
            self._load(state)
            self.file = open(state, 'a', encoding='utf-8')
            self._keep({'build': build_of(), 'kind': kind.name})

    def _load(self, state):
        if not os.path.exists(state):
            return
        with open(state, encoding='utf-8') as file:
            lines = [json.loads(line) for line in file if line.endswith('\n')]
        for line in lines:
            if 'build' in line:
                if (line['build'], line['kind']) != (build_of(), self.kind.name):
                    raise SystemExit(f'{state} is of another build or kind; remove it to begin anew')
            elif 'seconds' in line:
                self.seconds += line['seconds']
            elif line['scenario'] in self.by_name:
                course = self.by_name[line['scenario']]
                self.loaded += 1
                if 'measure' in line:
                    course.measure = line['measure']
                else:
                    course.add(tuple(line['point']), line['result'])

    def _keep(self, line):
        if self.file:
            self.file.write(json.dumps(line) + '\n')
            self.file.flush()

    def _took(self, course, points, done):
        course.out -= 1
        results = done.result()
        if isinstance(results, str):
            course.wrong, course.stage = [results], 2
            print('    ' + results, flush=True)
            return
        if not points:
            course.measure = results
            self._keep({'scenario': course.scenario.name, 'measure': results})
            return
        for point, result in zip(points, results):
            course.add(point, result)
            self._keep({'scenario': course.scenario.name, 'point': point, 'result': result})
            for problem in result['problems']:
                print(f'    {course.scenario.name}: {list(point)}: {result["what"]}: {problem}', flush=True)
        course.queue = [*points[len(results):], *course.queue]

    def _next(self, courses):
        """The next thing to do, of one that is behind; of any of these, so that a part of the whole has a part of each."""
        for course in sorted(courses, key=lambda one: (one.measure is not None, one.stage, self.chance.random())):
            points = course.next(self.chance, self.claimed)
            if points is not None:
                course.out += 1
                return course, points
        return None

    def run(self, seconds, courses=None):
        """Until all is done or the time is over."""
        courses = self.courses if courses is None else courses
        began = time.monotonic()
        end, running = began + seconds, {}
        context = multiprocessing.get_context('fork')
        with concurrent.futures.ProcessPoolExecutor(self.jobs, context, _begin, (self.place.folder,)) as pool:
            while True:
                while len(running) < self.jobs and time.monotonic() < end:
                    task = self._next(courses)
                    if not task:
                        break
                    course, points = task
                    running[pool.submit(_some, self.kind, SCENARIOS.index(course.scenario), points)] = task
                if not running:
                    break
                for done in concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED).done:
                    self._took(*running.pop(done), done)
        self.seconds += time.monotonic() - began
        self._keep({'seconds': round(time.monotonic() - began)})

    def is_over(self):
        return all(course.is_over() for course in self.courses)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        if self.file:
            self.file.close()
        self.place.close()
