#!/usr/bin/env python3
"""Planted bugs: each `*.mutant` is one small change for the worse, and the suite has to notice it.

A mutant is text. Its first line says what is wrong; then come

    tests: unit/spool_queue sim/server:1:60     those most likely to notice; one has to
    === src/spool/writer.c                      a file, then as often as needed
    --- old
    exactly what stands there, once
    --- new
    what stands there instead
    --- end

Each is applied to a copy of the tree, built and tested; text that is no longer there, or there twice, is an error, so
a mutant cannot rot in silence. A line `untried: yes` keeps one out until it was seen to be noticed. Tests: `unit/NAME`, `sim/SCENARIO:SEED:COUNT`, `system/NAME`, `lint`, and `compile`, which says
that the compiler itself refuses it. Ends with 'N passed, N failed'; a mutant that survives is a failure."""
import argparse
import datetime
import glob
import hashlib
import json
import os
import random
import re
import select
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TEST_TIMEOUT_S = 300  # --patience: a busy machine needs more
PROGRAMS = ['holdfast', 'tests/unit/spool_driver', 'tests/unit/locked_in']  # what system tests start


FOUND = {'sim': re.compile(rb'^not ok', re.M), 'unit': re.compile(rb': not so: |^\[  FAILED  \]', re.M)}
NEVER = re.compile(rb'(?!)')


class Mutant:
    def __init__(self, path):
        self.name = os.path.splitext(os.path.basename(path))[0]
        self.tests, self.edits, self.untried = [], [], False
        text = open(path, encoding='utf-8').read()
        self.digest = hashlib.sha256(text.replace('untried: yes\n', '').encode()).hexdigest()[:16]
        lines = text.split('\n')
        self.about = lines[0]
        file, part, text = None, None, {}
        for line in lines[1:]:
            if part and line == '--- end':
                self.edits.append((file, text['old'], text['new']))
                part, text = None, {}
            elif line in ('--- old', '--- new'):
                part = line[4:]
                text[part] = ''
            elif part:
                text[part] += line + '\n'
            elif line.startswith('=== '):
                file = line[4:]
            elif line == 'untried: yes':
                self.untried = True
            elif line.startswith('tests: '):
                self.tests = line[7:].split()
        if not self.about or not self.tests or not self.edits or part:
            sys.exit(f'mutants: {path}: a mutant has a line about it, tests and an edit')

    def gone(self, tree):
        """The old texts that no longer stand there exactly once, and tests that are not there: those would always fail."""
        for test in self.tests:
            kind, _, name = test.partition('/')
            file = {'system': f'tests/system/{name}.py', 'unit': f'tests/unit/test_{name}.c'}.get(kind)
            if file and not os.path.exists(os.path.join(tree, file)):
                yield f'there is no {file}'
        for file, old, _ in self.edits:
            count = open(os.path.join(tree, file), encoding='utf-8').read().count(old)
            if count != 1:
                yield f'{file} holds the old text {count} times'

    def apply(self, tree):
        """Returns what undoes it. Exits when the text is not there exactly once."""
        before = {}
        for file, old, new in self.edits:
            path = os.path.join(tree, file)
            text = open(path, encoding='utf-8').read()
            if text.count(old) != 1:
                undo(tree, before)
                raise LookupError(f'{file} holds the old text {text.count(old)} times')
            before.setdefault(file, text)
            write(path, text.replace(old, new))
        return before


def undo(tree, before):
    for file, text in before.items():
        write(os.path.join(tree, file), text)


def write(path, text):
    with open(path, 'w', encoding='utf-8') as out:
        out.write(text)


def copy_tree(tree):
    """Brings the copy up to date; what has not changed keeps its time, so it is not built again."""
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split('\0') if name and os.path.isfile(os.path.join(ROOT, name))]
    for name in names:
        source, target = os.path.join(ROOT, name), os.path.join(tree, name)
        content = open(source, 'rb').read()
        if os.path.exists(target) and open(target, 'rb').read() == content:
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, 'wb') as out:
            out.write(content)
        os.chmod(target, os.stat(source).st_mode & 0o777)
    wanted = set(names)
    for base, _, files in os.walk(tree):
        for file in files:
            name = os.path.relpath(os.path.join(base, file), tree)
            if name not in wanted:
                os.remove(os.path.join(base, file))


class Suite:
    """Builds and runs single tests of the copy."""

    def __init__(self, scratch, patience_s):
        self.patience_s = patience_s
        self.tree, self.build = os.path.join(scratch, 'tree'), os.path.join(scratch, 'build')
        copy_tree(self.tree)
        if not os.path.exists(os.path.join(self.build, 'build.ninja')):
            subprocess.run(['meson', 'setup', self.build, self.tree], check=True, stdout=subprocess.DEVNULL)
        # Else an older build folder does not know the tests that came since.
        subprocess.run(['ninja', '-C', self.build, 'build.ninja'], check=True, stdout=subprocess.DEVNULL)
        listed = subprocess.run(['meson', 'introspect', '--tests', self.build], capture_output=True, text=True, check=True)
        self.units = {test['name']: test for test in json.loads(listed.stdout)}

    def target(self, test):
        kind, name = test.split('/', 1)
        if kind == 'unit':
            return [os.path.relpath(word, self.build) for word in self.units[name]['cmd'] if word.startswith(self.build + '/')]
        return {'sim': ['tests/sim/holdfast-sim'], 'system': PROGRAMS}[kind]

    def make(self, tests):
        """None, or the compiler's last words."""
        targets = [one for test in tests if '/' in test for one in self.target(test)] or ['holdfast']
        done = subprocess.run(['ninja', '-C', self.build, *sorted(set(targets))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        errors = [line for line in done.stdout.split('\n') if 'error' in line]
        return None if done.returncode == 0 else (errors or ['does not build'])[0]

    def command(self, test):
        kind, _, name = test.partition('/')
        if kind == 'unit':
            return self.units[name]['cmd'], self.units[name].get('env') or {}
        if kind == 'sim':
            scenario, seed, count = name.split(':')
            return [os.path.join(self.build, 'tests/sim/holdfast-sim'), '--only', scenario, seed, count], {'ASAN_OPTIONS': 'detect_leaks=0'}
        if kind == 'system':
            return [sys.executable, os.path.join(self.tree, 'tests/system', name + '.py')], {
                'HOLDFAST': os.path.join(self.build, 'holdfast'), 'HOLDFAST_BUILD': self.build}
        return [sys.executable, os.path.join(self.tree, 'tests/lint.py')], {}

    def passes(self, test):
        """(passed, what it said first against it). What starts no servers is stopped at its first finding."""
        command, env = self.command(test)
        env = {**os.environ, 'HOLDFAST_SHARED': '/nonexistent', **env}
        process = subprocess.Popen(command, cwd=self.tree, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        ends, said, text = time.monotonic() + self.patience_s, '', b''
        try:
            while True:
                if not select.select([process.stdout], [], [], max(0, ends - time.monotonic()))[0]:
                    return False, f'did not end within {self.patience_s} s'
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    break
                text = (text + piece)[-1000000:]
                if FOUND.get(test.partition('/')[0], NEVER).search(text):
                    break
            stopped = piece != b''
            status = 1 if stopped else process.wait(timeout=max(1, ends - time.monotonic()))
            lines = [line.strip() for line in text.decode(errors='replace').split('\n')]
            said = [line for line in lines if re.match(r'not ok|.*: not so: |.*\berror: |.*FAILED', line)]
            return status == 0, said[0] if said else f'ended with {status}'
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
            process.stdout.close()


def try_one(suite, mutant):
    """(word, which test, how it said so)"""
    try:
        before = mutant.apply(suite.tree)
    except LookupError as gone:
        return 'STALE', '', str(gone)
    try:
        for test in mutant.tests:
            refused = suite.make([test])
            if refused:
                return ('caught' if test == 'compile' else 'BROKEN'), 'compile', refused
            passed, said = (True, '') if test == 'compile' else suite.passes(test)
            if not passed:
                return 'caught', test, said
        return 'SURVIVED', ' '.join(mutant.tests), ''
    finally:
        undo(suite.tree, before)


def is_quick(mutant):
    """A unit test, or the compiler, is the first to look."""
    return mutant.tests[0].startswith(('unit/', 'compile'))


def chosen(mutants, options):
    if options.exact:
        named = {mutant.name: mutant for mutant in mutants}
        return [named[name] for name in options.names]
    if options.names:
        absent = [name for name in options.names if not any(name in mutant.name for mutant in mutants)]
        if absent:
            sys.exit('mutants: none is called ' + ' or '.join(absent))
        return [mutant for mutant in mutants if any(name in mutant.name for name in options.names)]
    if options.slice:
        seed = options.seed if options.seed is not None else datetime.date.today().toordinal()
        quick = [mutant for mutant in mutants if is_quick(mutant)]
        return sorted(random.Random(seed).sample(quick, min(options.slice, len(quick))), key=lambda mutant: mutant.name)
    return mutants


def widest(tests):
    """Of several runs of a scenario from the same seed on, the longest holds the others."""
    longest = {}
    for test in sorted(tests):
        key, _, count = test.rpartition(':')
        if not key:
            longest[test] = test
        elif int(count) > int(longest.get(key, ':0').rpartition(':')[2]):
            longest[key] = test
    return sorted(longest.values())


def check_baseline(suite, mutants):
    """Without a planted bug every test has to pass, or its failing proves nothing."""
    tests = widest({test for mutant in mutants for test in mutant.tests if test != 'compile'})
    refused = suite.make(tests)
    if refused:
        sys.exit('mutants: the tree itself does not build: ' + refused)
    for test in tests:
        passed, said = suite.passes(test)
        if not passed:
            passed, said = suite.passes(test)
        if not passed:
            sys.exit(f'mutants: {test} fails without a planted bug: {said}')


class State:
    """What was noticed so far, and by which test; in a file, so that a run that was broken off goes on."""

    def __init__(self, path):
        self.path, self.rows = path, {}

    def test_of(self, mutant):
        """None when it was not noticed yet as it is now. Another run may write into the file, too."""
        if self.path and os.path.exists(self.path):
            self.rows.update(json.load(open(self.path, encoding='utf-8')))
        row = self.rows.get(mutant.name, {})
        return row.get('test') if row.get('digest') == mutant.digest else None

    def note(self, mutant, test):
        self.test_of(mutant)
        self.rows[mutant.name] = {'digest': mutant.digest, 'test': test}
        if self.path:
            write(self.path + '.new', json.dumps(self.rows, indent=1, sort_keys=True))
            os.rename(self.path + '.new', self.path)


def put_table(mutants, state):
    """Those that were noticed, and the names of those that were not, or not planted yet."""
    absent = [mutant.name for mutant in mutants if not state.test_of(mutant)]
    lines = [f'| {mutant.name} | {mutant.about} | `{state.test_of(mutant)}` |' for mutant in mutants if mutant.name not in absent]
    below = ['', f'The table holds {len(lines)} of {len(mutants)}.' + (' No run that wrote it has planted these, or seen them noticed: ' if absent else '')
             + ', '.join(absent) + ('.' if absent else ''), '']
    path = os.path.join(ROOT, 'docs', 'mutants.md')
    text = open(path, encoding='utf-8').read()
    write(path, '\n'.join([text[:text.index('| mutant |')] + '| mutant | what is planted | noticed by |', '|---|---|---|', *lines, *below]))


def main():
    parser = argparse.ArgumentParser(prog='./run mutants')
    parser.add_argument('names', nargs='*', help='only those whose name contains one of these')
    parser.add_argument('--exact', action='store_true', help='only those called exactly so')
    parser.add_argument('--untried', action='store_true', help='those that were written and not run to an end yet, instead of the others')
    parser.add_argument('--slice', type=int, help='so many of those that a unit test notices, chosen by the day')
    parser.add_argument('--seed', type=int, help='choose the slice by this instead')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--no-baseline', action='store_true', help='do not run the tests without a planted bug first')
    parser.add_argument('--state', type=os.path.abspath, help='go on from this file: what was noticed already is not planted again')
    parser.add_argument('--write', action='store_true', help='put the table of all that were noticed into docs/mutants.md')
    parser.add_argument('--patience', type=int, default=TEST_TIMEOUT_S, help='seconds after which a test counts as failed')
    parser.add_argument('--scratch', default=os.path.join(ROOT, 'build', 'mutants'))
    options = parser.parse_args()
    known = mutants = [Mutant(path) for path in sorted(glob.glob(os.path.join(HERE, '*.mutant')))]
    if not options.names:
        mutants = [mutant for mutant in mutants if mutant.untried == options.untried]
    state = State(options.state)
    some = [mutant for mutant in chosen(mutants, options) if not state.test_of(mutant)]
    some.sort(key=lambda mutant: (not is_quick(mutant), mutant.tests[0]))
    if options.list:
        print('\n'.join(f'{mutant.name:34} {mutant.about}' for mutant in some))
        return 0
    stale = [f'{mutant.name}: {gone}' for mutant in mutants for gone in mutant.gone(ROOT)]
    if stale:
        sys.exit('mutants: the code has moved on\n' + '\n'.join(stale))
    suite = Suite(os.path.abspath(options.scratch), options.patience)
    if not options.no_baseline:
        check_baseline(suite, some)
    rows, failed = [], 0
    for mutant in some:
        if state.test_of(mutant):
            continue
        began = time.monotonic()
        word, test, said = try_one(suite, mutant)
        failed += word != 'caught'
        rows.append(word)
        if word == 'caught':
            state.note(mutant, test)
        print(f'{"ok" if word == "caught" else "not ok":6} {mutant.name:34} {word:8} {test:26} {time.monotonic() - began:5.1f} s  {mutant.about}', flush=True)
        if said and (word != 'caught' or said.startswith('did not end')):
            print('       ' + said, flush=True)
    if options.write:
        put_table(known, state)
    print(f'{len(rows) - failed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
