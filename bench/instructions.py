#!/usr/bin/env python3
"""Instructions per message that a build of Holdfast takes, counted by valgrind: a figure that the load of the machine does not change.

usage: instructions.py [--messages N] [--sessions S] [--size BYTES]... [--top N] BINARY [BINARY]...

Each binary takes mail from Postfix's smtp-source and relays it to smtp-sink, once few messages and once many; the difference, by
the number of messages, is what one costs from its MAIL to the end of its delivery, in the worker process, in user space. With
--top the functions that cost most are listed, and with two binaries those whose share changed most.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import tempfile
import time

from bench import free_port, wait_port, family

PATIENCE_S = 600


def parse():
    arguments = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    arguments.add_argument('binaries', nargs='+')
    arguments.add_argument('--messages', type=int, default=1000)
    arguments.add_argument('--sessions', type=int, default=4)
    arguments.add_argument('--size', type=int, action='append')
    arguments.add_argument('--top', type=int, default=0)
    return arguments.parse_args()


def totals(files):
    """Instructions by function over those profiles: callgrind's format, where (N) stands for a name that was given before."""
    found = {}
    for file in files:
        names, here, call = {}, '', False
        for line in open(file, errors='replace'):
            if line.startswith('fn='):
                key, name = re.match(r'fn=\((\d+)\)(?: (.*))?', line).groups()
                here = names.setdefault(key, name or names.get(key) or key)
            elif line.startswith(('cfn=', 'cfi=', 'cob=', 'fl=', 'fi=', 'fe=', 'ob=')):
                match = re.match(r'cfn=\((\d+)\) (.*)', line)
                if match:
                    names.setdefault(match.group(1), match.group(2))
            elif line.startswith('calls='):
                call = True
            elif line[:1] in '0123456789+-*':
                if not call:
                    found[here] = found.get(here, 0) + int(line.split()[1])
                call = False
    return found


def play(binary, size, sessions, messages, folder):
    """The profiles of one run, by function."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    port, hop = free_port(), free_port()
    config = os.path.join(folder, 'holdfast.conf')
    with open(config, 'w') as file:
        file.write(f'hostname = "holdfast.bench.example"\nspool = "{folder}/spool"\nlisten smtp {{ address = "127.0.0.1:{port}" }}\n'
                   f'relay {{ from = {{"127.0.0.0/8"}}  via = "smtp:127.0.0.1:{hop}" }}\n')
    sink = subprocess.Popen(['smtp-sink', '-u', 'nobody', f'127.0.0.1:{hop}', '1024'], stderr=subprocess.DEVNULL)
    with open(os.path.join(folder, 'log'), 'wb') as log:
        server = subprocess.Popen(['valgrind', '--tool=callgrind', '--trace-children=yes', '-q', f'--callgrind-out-file={folder}/out.%p',
                                   binary, 'serve', '-c', config], stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_port(hop)
        wait_port(port)
        subprocess.run(['smtp-source', '-d', '-s', str(sessions), '-m', str(messages), '-l', str(size), '-f', 'a@bench.example',
                        '-t', 'b@far.example', f'127.0.0.1:{port}'], check=True, timeout=PATIENCE_S, stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with open(os.path.join(folder, 'log'), errors='replace') as log:
                if sum('"delivery.done"' in line for line in log) >= messages:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit(f'bench: not delivered in {PATIENCE_S} s: {folder}/log')
    finally:
        for process in (server, sink):
            process.terminate()
            process.wait(timeout=PATIENCE_S)
    return totals(glob.glob(os.path.join(folder, 'out.*')))


def cost(binary, size, sessions, messages, folder):
    """Instructions of one message, by function."""
    few = play(binary, size, sessions, messages // 5, folder)
    many = play(binary, size, sessions, messages + messages // 5, folder)
    return {name: (count - few.get(name, 0)) / messages for name, count in many.items()}


def main():
    options = parse()
    folder = tempfile.mkdtemp(prefix='holdfast-instructions-')
    try:
        for size in options.size or [1024, 10240]:
            costs = []
            for binary in options.binaries:
                costs.append(cost(binary, size, options.sessions, options.messages, folder))
                print(f'{size} octets: {sum(costs[-1].values()):,.0f} instructions per message: {binary}', flush=True)
            last, first = costs[-1], costs[0] if len(costs) > 1 else {}
            changes = sorted(last.keys() | first.keys(), key=lambda name: -abs(last.get(name, 0) - first.get(name, 0)))
            for name in changes[:options.top]:
                print(f'    {first.get(name, 0):12,.0f} -> {last.get(name, 0):12,.0f}  {name}')
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    main()
