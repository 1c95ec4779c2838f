#!/usr/bin/env python3
"""A queue of a million: how long it takes to start on it, to list it and to act on all of it, and how much memory that needs.
In CI a slice of 10,000; HOLDFAST_FULL=1 or a number as argument for the whole. --spool DIR: one that is filled already.

The queue is made by the spool's own API (spool_driver fill): nine of ten messages are for a domain whose next hop is dead,
the others for a thousand domains whose next hop is dead as well; a hundred senders."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from lib import HOLDFAST, ROOT, Checks, Server, wait_until

DRIVER = os.path.join(os.environ.get('HOLDFAST_BUILD', os.path.join(ROOT, 'build')), 'tests', 'unit', 'spool_driver')
PATIENCE_S = 1800
checks = Checks()


def run(server, *words):
    began = time.monotonic()
    done = subprocess.run([HOLDFAST, *words, '-c', server.config], capture_output=True, text=True, timeout=PATIENCE_S)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - began


def memory_kib(server, word):
    """Of the process that works: the one that was started may only watch over it."""
    children = subprocess.run(['pgrep', '-P', str(server.process.pid)], capture_output=True, text=True).stdout.split()
    sizes = []
    for pid in [str(server.process.pid), *children]:
        with open(f'/proc/{pid}/status') as file:
            sizes.append(int([line for line in file if line.startswith(word)][0].split()[1]))
    return max(sizes)


def main():
    words = [word for word in sys.argv[1:] if not word.startswith('--')]
    given = sys.argv[sys.argv.index('--spool') + 1] if '--spool' in sys.argv else None
    words = [word for word in words if word != given]
    count = int(words[0]) if words else 1000000 if os.environ.get('HOLDFAST_FULL') else 10000
    folder = tempfile.mkdtemp(prefix='holdfast-million-')
    spool = given or os.path.join(folder, 'spool')
    if not given:
        subprocess.run([DRIVER, 'fill', spool, str(count)], check=True, timeout=PATIENCE_S)
    text = (f'hostname = "mx.test"\nspool = "{spool}"\nlisten smtp {{ address = "127.0.0.1:0" }}\n'
            'relay { from = {"127.0.0.0/8"}  via = "smtp:127.0.0.1:2" }\nroute "dead.example" { via = "smtp:127.0.0.1:1" }\n'
            'log { level = error }\nretry { warn_after = 0 }\n')

    def told(name, took, right, more=''):
        checks.ok(f'{name}: {took:.1f} s{more}', right)

    server = Server(text=text, folder=folder, start=False)
    with open(os.path.join(folder, 'stderr'), 'wb') as journal:
        began = time.monotonic()
        server.process = subprocess.Popen([HOLDFAST, 'serve', '-c', server.config], stderr=journal, cwd=folder)
        wait_until('the start', lambda: run(server, 'status')[0] == 0, PATIENCE_S)
        told('start, to the first answer', time.monotonic() - began, True)
        code, out, error, took = run(server, 'status', '--json')
        told('status', took, code == 0 and json.loads(out)['queue']['messages'] == count, f', {memory_kib(server, "VmRSS") // 1024} MiB resident')
        for by, rows in (('dest', min(1001, count // 10 + 1)), ('cause', 1), ('age', 1)):
            code, out, error, took = run(server, 'queue', '--by', by, '--json')
            groups = json.loads(out) if code == 0 else []
            told(f'queue --by {by}', took, sum(row['recipients'] for row in groups) == count and len(groups) >= rows, f', {len(groups)} rows')
        code, out, error, took = run(server, 'queue', '--by', 'age')
        print('\n'.join('# ' + line for line in out.split('\n')[:6]))
        for words, touched in ((('hold', '--all'), count), (('release', '--dest', 'dead.example'), count * 9 // 10),
                               (('suspend', '--dest', 'dead.example'), count * 9 // 10), (('resume', '--dest', 'dead.example'), count * 9 // 10),
                               (('drop', '--sender', 'sender7@here.example'), count // 100), (('drop', '--all'), None)):
            code, out, error, took = run(server, *words, '--json')
            got = json.loads(out)['touched'] if code == 0 else -1
            told(' '.join(words), took, code == 0 and got >= (touched or 1) * 0.99,
                 f', {got} messages, {got / max(took, 0.001):.0f} a second; {memory_kib(server, "VmHWM") // 1024} MiB at most')
        wait_until('an empty queue', lambda: run(server, 'drop', '--all')[0] and json.loads(run(server, 'status', '--json')[1])['queue']['messages'] == 0, 60)
        server.process.terminate()
        checks.ok('stops', server.process.wait(60) == 0)
    shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
