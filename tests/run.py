#!/usr/bin/env python3
"""Runs every test: lint, what must not compile, unit tests, simulation, whole-system tests. Ends with one line
'N passed, N failed, N skipped'. With --full a SKIP is a failure, save for ../shared being absent."""
import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLOSING = re.compile(r'^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$', re.M)
MESON_LINE = re.compile(r'^(Ok|Fail|Skipped|Timeout|Expected Fail|Unexpected Pass):\s+(\d+)', re.M)
SHARED_ABSENT = 'SKIP ../shared is absent'


class Totals:
    def __init__(self, full):
        self.passed = self.failed = self.skipped = 0
        self.full = full
        self.bad = []
        self.lock = threading.Lock()

    def add(self, name, passed, failed, skipped, output):
        with self.lock:
            self.count(name, passed, failed, skipped, output)

    def count(self, name, passed, failed, skipped, output):
        excused = output.count(SHARED_ABSENT)
        if self.full and skipped > excused:
            failed += skipped - excused
            skipped = excused
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if failed:
            self.bad.append(name)


def run(totals, name, command, timeout_s, env=None, cwd=ROOT):
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s,
                              env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)
        output, status = done.stdout.decode(errors='replace'), done.returncode
    except subprocess.TimeoutExpired as late:
        output, status = (late.stdout or b'').decode(errors='replace') + f'\nkilled after {timeout_s} s\n', 1
    counts = CLOSING.findall(output)
    if counts:
        passed, failed, skipped = (int(n or 0) for n in counts[-1])
        if status != 0 and failed == 0:
            failed = 1
    else:
        passed, failed, skipped = (1, 0, 0) if status == 0 else (0, 1, 0)
    totals.add(name, passed, failed, skipped, output)
    word = 'ok' if not failed else 'not ok'
    lines = [f'{word:6} {name}: {passed} passed, {failed} failed, {skipped} skipped ({time.monotonic() - began:.1f} s)']
    lines += ['       ' + line.strip() for line in output.split('\n') if line.startswith('SKIP') or ' # SKIP' in line]
    if failed:
        lines += ['       ' + line for line in output.rstrip().split('\n')[-60:]]
    print('\n'.join(lines), flush=True)


def unit_tests(totals, build, kind='unit'):
    """meson counts programs; each program's own cmocka count is what we add up. As many at once as there are cores."""
    listed = subprocess.run(['meson', 'introspect', '--tests', build], capture_output=True, text=True, cwd=ROOT)

    def one(test):
        run(totals, f'{kind} {test["name"]}', cmocka_counted(test['cmd']), test.get('timeout', 60) * 2, env=test.get('env'), cwd=test.get('workdir') or build)

    longest_first = sorted(json.loads(listed.stdout), key=lambda test: -test.get('timeout', 60))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done in [pool.submit(one, test) for test in longest_first]:
            done.result()


def cmocka_counted(command):
    """Turns cmocka's '[  PASSED  ] N test(s).' into the closing line that run() reads."""
    script = ('import re,subprocess,sys\n'
              'done=subprocess.run(sys.argv[1:],stdout=subprocess.PIPE,stderr=subprocess.STDOUT)\n'
              'text=done.stdout.decode(errors="replace")\n'
              'print(text)\n'
              'if not re.search(r"^\\d+ passed, \\d+ failed", text, re.M):\n'
              '    p=sum(int(n) for n in re.findall(r"\\[  PASSED  \\] (\\d+) test", text))\n'
              '    f=sum(int(n) for n in re.findall(r"\\[  FAILED  \\] (\\d+) test", text))\n'
              '    s=sum(int(n) for n in re.findall(r"\\[  SKIPPED \\] (\\d+) test", text))\n'
              '    if p+f+s==0: p,f=(1,0) if done.returncode==0 else (0,1)\n'
              '    print(f"{p} passed, {f} failed, {s} skipped")\n'
              'sys.exit(done.returncode)\n')
    return [sys.executable, '-c', script, *command]


def sanitized(totals, build, folder):
    """The other compiler, clang, with the address and undefined-behaviour sanitizers: all unit tests once more. The fuzz targets
    are built with them."""
    if not shutil.which('clang'):
        print('SKIP clang is not installed')
        totals.add('clang', 0, 0, 1, '')
        return
    if not os.path.exists(os.path.join(folder, 'build.ninja')):
        run(totals, 'clang set-up', ['meson', 'setup', folder, ROOT, '-Dfuzz=true', '-Db_sanitize=address,undefined', '-Db_lundef=false'], 300, {'CC': 'clang'})
    run(totals, 'clang builds everything', ['ninja', '-C', folder], 1200)
    os.environ.setdefault('UBSAN_OPTIONS', 'halt_on_error=1:print_stacktrace=1')
    unit_tests(totals, folder, 'sanitized')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--build', type=os.path.abspath, required=True)
    parser.add_argument('only', nargs='*', help='run only the tests whose name contains one of these')
    options = parser.parse_args()
    totals = Totals(options.full)
    env = {'HOLDFAST': os.path.join(options.build, 'holdfast'), 'HOLDFAST_BUILD': options.build,
           'HOLDFAST_SHARED': os.environ.get('HOLDFAST_SHARED', os.path.join(ROOT, '..', 'shared'))}
    if options.full:
        env['HOLDFAST_FULL'] = '1'

    os.environ.update(env)
    with_clang = options.build.rstrip('/') + '-sanitized'

    def wanted(name):
        return not options.only or any(word in name for word in options.only)

    if wanted('lint'):
        run(totals, 'lint', [sys.executable, 'tests/lint.py'], 120)
    if wanted('must_not_compile'):
        run(totals, 'must_not_compile', ['sh', 'tests/must_not_compile/check.sh'], 120)
    if not options.only or 'unit' in options.only:
        unit_tests(totals, options.build)
    if not options.only or 'sanitized' in options.only:
        sanitized(totals, options.build, with_clang)
    if not options.only or 'fuzz' in options.only:
        run(totals, 'fuzz, a slice', [sys.executable, 'scripts/fuzz.py', 'slice', '--build', with_clang], 1500)
    if not options.only or 'mutants' in options.only:
        # Each of the tests that have to notice runs without a planted bug elsewhere in this file.
        run(totals, 'mutants, a slice', [sys.executable, 'tests/mutants/mutants.py', '--no-baseline', *([] if options.full else ['--slice', '6'])], 5400 if options.full else 900)
    for path in sorted(glob.glob(os.path.join(ROOT, 'tests/system/test_*.py')) + glob.glob(os.path.join(ROOT, 'tests/system/*_crash.py'))):
        name = os.path.splitext(os.path.basename(path))[0]
        if wanted(name):
            run(totals, 'system ' + name, [sys.executable, path], 900, env)
    if totals.bad:
        print('failed: ' + ', '.join(totals.bad))
    print(f'{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped')
    return 1 if totals.failed or totals.passed == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
