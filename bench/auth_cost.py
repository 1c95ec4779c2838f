#!/usr/bin/env python3
"""What SPF, DKIM and DMARC add to the CPU of accepting a signed 10 KiB message, beyond the cryptography itself.

usage: auth_cost.py --build DIR [--rounds N] [--perf]

Two servers, one with the checks off and one with them on, take the same message in turns, blocks of 50 after each other; the
kernel says what CPU all their threads used (user and system). The answers of DNS come from the resolver's memory, as they do for
whoever sends often. The mail is for a next hop that is down, so that delivery costs next to nothing in both.

bench/auth_crypto.c does the cryptography of one message, by the same calls. It is measured twice: in a loop, where the
processor has it all at hand, and at the pace of the mail, one message's work after each message that a server took, as the
server itself does it. The second is what is taken off; the first is shown beside it.

--perf: one run of each server under `perf record` instead: samples in the libraries, on and off. What libcrypto used in the
server itself is the third witness.
"""
import argparse
import glob
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'system'))

BLOCK = 50


def cpu_us(pid):
    """Of all threads of the process."""
    spent_ns = 0
    for path in glob.glob(f'/proc/{pid}/task/*/schedstat'):
        try:
            with open(path) as file:
                spent_ns += int(file.read().split()[0])
        except OSError:  # it ended
            pass
    return spent_ns / 1e3


def make_keys(folder):
    pem, der = os.path.join(folder, 'key.pem'), os.path.join(folder, 'key.der')
    subprocess.run(['openssl', 'genrsa', '-traditional', '-out', pem, '2048'], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(['openssl', 'rsa', '-in', pem, '-pubout', '-outform', 'DER', '-out', der], check=True, stderr=subprocess.DEVNULL)
    return pem, der


def make_message(holdfast, pem):
    body = ''.join(f'Line {n:04} of a message that is ten kibibytes long, more or less, words and words.\r\n' for n in range(124))
    head = ('From: Ann <ann@sender.example>\r\nTo: alice@home.example\r\nSubject: a message\r\nMessage-ID: <1@sender.example>\r\n'
            'Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n')
    done = subprocess.run([holdfast, 'sign', '-', '--domain', 'sender.example', '--selector', 's', '--key', pem],
                          input=(head + body).encode(), capture_output=True, check=True)
    return done.stdout


class Turn:
    """One server, and one client that stays connected."""

    TALK = b'MAIL FROM:<ann@sender.example>\r\nRCPT TO:<alice@home.example>\r\nDATA\r\n'

    def __init__(self, lib, text, message):
        self.server = lib.Server(text=text)
        self.client = lib.Client(self.server.address())
        self.message = message + b'.\r\n'
        self.client.command('EHLO client.example')
        self.pid = self.server.worker_pid
        for _ in range(2 * BLOCK):  # answers of DNS and caches are warm
            self.send()

    def send(self):
        self.client.send(self.TALK)
        self.client.replies(3)
        self.client.send(self.message)
        reply = self.client.reply()
        if reply.code != 250:
            raise SystemExit(f'auth_cost: {reply.lines}')

    def close(self):
        self.client.close()
        self.server.stop()


class Pace:
    """The process that does the cryptography when it is told to."""

    def __init__(self, command):
        self.process = subprocess.Popen([*command, 'paced'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.pid = self.process.pid
        self.say(b'c')

    def say(self, word):
        self.process.stdin.write(word)
        if self.process.stdout.read(1) != word:
            raise SystemExit('auth_cost: the cryptography failed')

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def block(pid, work):
    """Microseconds of the process's CPU for one round of work()."""
    begin = cpu_us(pid)
    for _ in range(BLOCK):
        work()
    return (cpu_us(pid) - begin) / BLOCK


def paced_block(pace, turn, word):
    def work():
        turn.send()
        pace.say(word)
    return block(pace.pid, work)


def compare(off, on, pace, rounds):
    found = {'off': [], 'on': [], 'crypto': [], 'idle': []}
    for number in range(rounds):
        for name in sorted(found, reverse=number % 2 == 0):
            if name in ('off', 'on'):
                turn = on if name == 'on' else off
                found[name].append(block(turn.pid, turn.send))
            else:
                found[name].append(paced_block(pace, off, b'c' if name == 'crypto' else b'i'))
    return found


def report(found, loop):
    off, on = statistics.median(found['off']), statistics.median(found['on'])
    added = statistics.median(a - b for a, b in zip(found['on'], found['off']))
    crypto = statistics.median(a - b for a, b in zip(found['crypto'], found['idle']))
    print(f'accepting: {off:.1f} us of CPU a message; with SPF, DKIM and DMARC: {on:.1f} us; block by block: {added:+.1f} us')
    print(f'cryptography: {crypto:.1f} us at the pace of the mail, {loop:.1f} us in a loop')
    print(f'beyond the cryptography: {added - crypto:.1f} us, {100 * (added - crypto) / off:.1f} % of accepting '
          f'(with the figure of the loop: {added - loop:.1f} us, {100 * (added - loop) / off:.1f} %)')


def recorded(path):
    """{library: samples}"""
    text = subprocess.run(['perf', 'report', '-i', path, '--sort', 'dso', '--stdio', '-n', '-t', ';'],
                          capture_output=True, text=True).stdout
    rows = (line.split(';') for line in text.splitlines() if line.count(';') == 2 and not line.startswith('#'))
    return {name.strip(): int(count) for _, count, name in rows}


def samples(off, on, rounds, folder):
    """Those of both servers, their blocks in turns."""
    paths = [os.path.join(folder, name) for name in ('off', 'on')]
    perfs = [subprocess.Popen(['perf', 'record', '-q', '-F', '5000', '-o', path, '-p', str(turn.pid)], stderr=subprocess.DEVNULL)
             for path, turn in zip(paths, (off, on))]
    time.sleep(1)  # perf says nothing when it has begun; before the first message there is nothing to count
    for number in range(rounds):
        for turn in (off, on) if number % 2 else (on, off):
            for _ in range(BLOCK):
                turn.send()
    for perf in perfs:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    return [recorded(path) for path in paths]


def by_perf(off, on, rounds, folder):
    before, after = samples(off, on, rounds, folder)
    for name in sorted(after, key=lambda name: -after[name]):
        print(f'{name:28} {before.get(name, 0):7} off {after[name]:7} on')
    total = sum(before.values())
    beyond = sum(after.values()) - total - after.get('libcrypto.so.3', 0)
    print(f'beyond libcrypto: {beyond} samples, {100 * beyond / total:.1f} % of accepting')


def records(key):
    return {('s._domainkey.sender.example', 'TXT'): key, ('sender.example', 'TXT'): 'v=spf1 ip4:127.0.0.1 -all',
            ('_dmarc.sender.example', 'TXT'): 'v=DMARC1; p=reject', ('_dmarc.example', 'TXT'): 'no policy',
            ('client.example', 'TXT'): 'v=spf1 ip4:127.0.0.1 -all'}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--build', required=True)
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--perf', action='store_true')
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    os.environ['HOLDFAST'] = os.path.join(build, 'holdfast')
    import base64
    import lib
    from lib_dns import ScriptedDns
    with tempfile.TemporaryDirectory(prefix='holdfast-bench-') as folder:
        pem, der = make_keys(folder)
        message = make_message(os.environ['HOLDFAST'], pem)
        command = [os.path.join(build, 'tests', 'unit', 'auth_crypto'), pem, der]
        with open(der, 'rb') as file:
            key = 'v=DKIM1; k=rsa; p=' + base64.b64encode(file.read()).decode()
        names = ScriptedDns(records(key), ttl=3600)
        text = ('hostname = "mx.home.example"\nspool = "{folder}/spool"\nlisten smtp { address = "127.0.0.1:0" }\nloops = 1\n'
                'domain "home.example" { users = "file:{folder}/users"  deliver = "smtp:127.0.0.1:1" }\n'
                f'resolver {{ forward = {{"127.0.0.1@{names.port}"}} }}\n'
                'log { format = json  level = info }\n')
        off = Turn(lib, text, message)
        on = Turn(lib, text + 'checks { spf = enforce  dkim = record  dmarc = enforce }\n', message)
        pace = Pace(command)
        if options.perf:
            by_perf(off, on, options.rounds, folder)
        else:
            found = compare(off, on, pace, options.rounds)
            loop = min(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3))
            report(found, loop)
        for one in (pace, off, on, names):
            one.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())
