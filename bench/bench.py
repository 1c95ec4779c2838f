#!/usr/bin/env python3
"""Rates of Holdfast, side by side in one run with Postfix and with a sink that stores nothing.

usage: bench.py --build DIR [--quick] [--rounds N] [--json FILE] [--without-postfix]

Generator and sink are Postfix's smtp-source and smtp-sink, on the same machine: their CPU is part of what is measured. In
each round the contenders take turns case by case, so that a drift of the machine meets all of them; the table gives
medians and their ratio. Both servers make every message durable before their 250 (see docs/performance.md for how to see it).
"""
import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HZ = os.sysconf('SC_CLK_TCK')
PATIENCE_S = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def wait_port(port):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f'bench: nothing listens on port {port}')


def family(pid):
    """pid and its live descendants."""
    children = {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open(f'/proc/{name}/stat') as file:
                    fields = file.read().rsplit(')', 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(name))
            except OSError:
                continue
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_s(pid):
    total = 0
    for member in family(pid):
        try:
            with open(f'/proc/{member}/stat') as file:
                fields = file.read().rsplit(')', 1)[1].split()
            total += sum(int(fields[i]) for i in (11, 12, 13, 14))
        except OSError:
            continue
    return total / HZ


def pss_kib(pid):
    total = 0
    for member in family(pid):
        try:
            with open(f'/proc/{member}/smaps_rollup') as file:
                total += next(int(line.split()[1]) for line in file if line.startswith('Pss:'))
        except (OSError, StopIteration):
            continue
    return total


class Sink:
    name = 'sink'

    def __init__(self, folder):
        self.port = free_port()
        self.process = None

    def start(self):
        self.process = subprocess.Popen(['smtp-sink', '-u', 'nobody', f'127.0.0.1:{self.port}', '1024'],
                                        stderr=subprocess.DEVNULL)
        wait_port(self.port)

    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Holdfast:
    name = 'holdfast'

    def __init__(self, folder, binary, relay_port):
        self.folder, self.binary, self.relay_port = os.path.join(folder, 'holdfast'), binary, relay_port
        self.port = free_port()
        self.process = None

    def start(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.mkdir(self.folder)
        config = os.path.join(self.folder, 'holdfast.conf')
        with open(config, 'w') as file:
            file.write(f'''hostname = "holdfast.bench.example"
spool = "{self.folder}/spool"
listen smtp {{ address = "127.0.0.1:{self.port}" }}
relay {{ from = {{"127.0.0.0/8"}}  via = "smtp:127.0.0.1:{self.relay_port}" }}
limits {{ connections = 20000  connections_per_client = 20000 }}
''')
        log = open(os.path.join(self.folder, 'log'), 'wb')
        self.process = subprocess.Popen([self.binary, 'serve', '-c', config], stderr=log, stdin=subprocess.DEVNULL)
        wait_port(self.port)

    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE_S)


class Postfix:
    name = 'postfix'

    def __init__(self, folder, relay_port, hold):
        self.folder, self.relay_port, self.hold = os.path.join(folder, 'postfix'), relay_port, hold
        self.port = free_port()

    def start(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ('etc', 'data', 'queue'):
            os.makedirs(os.path.join(self.folder, name))
        os.chmod(self.folder, 0o755)
        shutil.chown(os.path.join(self.folder, 'data'), 'postfix')
        restriction = ('check_client_access static:HOLD, ' if self.hold else '') + 'permit_mynetworks, reject'
        with open(os.path.join(self.folder, 'etc/main.cf'), 'w') as file:
            file.write(f'''compatibility_level = 3.7
queue_directory = {self.folder}/queue
data_directory = {self.folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
multi_instance_name = postfix-bench
multi_instance_enable = yes
myhostname = postfix.bench.example
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
maillog_file = {self.folder}/log
maillog_file_prefixes = /var, /dev/stdout, /tmp, {os.path.dirname(self.folder)}
relayhost = [127.0.0.1]:{self.relay_port}
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_event_limit_exceptions = static:all
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = {restriction}
default_process_limit = 700
in_flow_delay = 0
max_use = 10000
default_destination_concurrency_limit = 100
initial_destination_concurrency = 20
biff = no
''')
        services = '''{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
'''
        with open(os.path.join(self.folder, 'etc/master.cf'), 'w') as file:
            file.write(services.format(port=self.port))
        subprocess.run(['postfix', '-c', os.path.join(self.folder, 'etc'), 'start'], check=True, capture_output=True)
        wait_port(self.port)

    def pid(self):
        with open(os.path.join(self.folder, 'queue/pid/master.pid')) as file:
            return int(file.read())

    def stop(self):
        subprocess.run(['postfix', '-c', os.path.join(self.folder, 'etc'), 'stop'], check=True, capture_output=True)


def source(port, size, sessions, count, kept=True):
    command = ['smtp-source', '-s', str(sessions), '-l', str(size), '-m', str(count), '-f', 'a@src.example',
               '-t', 'b@dest.example', *(['-d'] if kept else []), f'127.0.0.1:{port}']
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 3)
    if done.returncode != 0:
        raise SystemExit(f'bench: smtp-source stopped: {done.stderr.strip()[-300:]}')
    return time.monotonic() - began


def measure(contender, what, size, sessions, count, kept=True, wait=None):
    began_cpu, began = cpu_s(contender.pid()), time.monotonic()
    source(contender.port, size, sessions, count, kept)
    if wait:
        wait()
    wall = time.monotonic() - began
    return {'what': what, 'who': contender.name, 'size': size, 'sessions': sessions, 'kept': kept, 'count': count,
            'rate': count / wall, 'cpu_ms': 1000 * (cpu_s(contender.pid()) - began_cpu) / count}


def accept_rounds(folder, options, results):
    closed = free_port()
    counts = {1: 400, 20: 3000, 100: 3000} if options.quick else {1: 1500, 20: 10000, 100: 10000}
    for _ in range(options.rounds):
        contenders = [Sink(folder), Holdfast(folder, options.binary, closed)]
        if options.postfix:
            contenders.append(Postfix(folder, closed, hold=True))
        for contender in contenders:
            contender.start()
            source(contender.port, 1024, 100, 300)
        for size in (1024, 10240):
            for sessions in (1, 20, 100):
                for kept in (True, False):
                    for contender in contenders:
                        results.append(measure(contender, 'accept', size, sessions, counts[sessions] // (1 if kept else 2), kept))
                        print(json.dumps(results[-1]), file=options.log, flush=True)
        for contender in contenders:
            contender.stop()


class CountingSink(Sink):
    """smtp-sink that ends after a number of messages: so the relay's end is seen."""

    def expect(self, count):
        self.process = subprocess.Popen(['smtp-sink', '-u', 'nobody', '-M', str(count), f'127.0.0.1:{self.port}', '1024'],
                                        stderr=subprocess.DEVNULL)
        wait_port(self.port)

    def wait(self):
        self.process.wait(timeout=PATIENCE_S * 3)


def relay_rounds(folder, options, results):
    count = 1000 if options.quick else 5000
    for _ in range(options.rounds):
        sink = CountingSink(folder)
        contenders = [Holdfast(folder, options.binary, sink.port)]
        if options.postfix:
            contenders.append(Postfix(folder, sink.port, hold=False))
        for contender in contenders:
            contender.start()
            for case, sessions in ((None, 20), ('relay', 20), ('relay', 100)):
                some = count if case else 300
                sink.expect(some)
                result = measure(contender, 'relay', 2048, sessions, some, True, sink.wait)
                if case:
                    results.append(result)
                    print(json.dumps(result), file=options.log, flush=True)
            contender.stop()


def hold_connections(port, count):
    held = []
    for _ in range(count):
        connection = socket.create_connection(('127.0.0.1', port), timeout=PATIENCE_S)
        connection.recv(512)
        connection.sendall(b'EHLO bench.example\r\n')
        connection.recv(2048)
        held.append(connection)
    return held


def memory(folder, options, results):
    count = 200 if options.quick else 500
    closed = free_port()
    contenders = [Holdfast(folder, options.binary, closed)]
    if options.postfix:
        contenders.append(Postfix(folder, closed, hold=True))
    for contender in contenders:
        contender.start()
        hold_connections(contender.port, 10)
        at_rest = pss_kib(contender.pid())
        held = hold_connections(contender.port, count)
        full = pss_kib(contender.pid())
        for connection in held:
            connection.close()
        results.append({'what': 'memory', 'who': contender.name, 'connections': count, 'at_rest_kib': at_rest,
                        'each_kib': (full - at_rest) / count})
        print(json.dumps(results[-1]), file=options.log, flush=True)
        contender.stop()


def median_of(results, what, who, key, **case):
    values = [r[key] for r in results if r['what'] == what and r['who'] == who and all(r.get(k) == v for k, v in case.items())]
    return statistics.median(values) if values else None


def show(number, digits=0):
    return '-' if number is None else f'{number:,.{digits}f}'


def ratio(a, b):
    return '-' if not a or not b else f'{a / b:.2f}'


def table(results):
    print('\nDurable acceptance, messages per second (median); CPU: ms per message, user and system, of the server')
    print('| size | sessions | connections | sink (stores nothing) | holdfast | postfix | holdfast : sink | holdfast : postfix | CPU holdfast | CPU postfix |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    for size in (1024, 10240):
        for sessions in (1, 20, 100):
            for kept in (True, False):
                case = {'size': size, 'sessions': sessions, 'kept': kept}
                rate = {who: median_of(results, 'accept', who, 'rate', **case) for who in ('sink', 'holdfast', 'postfix')}
                cpu = {who: median_of(results, 'accept', who, 'cpu_ms', **case) for who in ('holdfast', 'postfix')}
                print(f"| {size // 1024} KiB | {sessions} | {'kept' if kept else 'one a message'} | {show(rate['sink'])} | {show(rate['holdfast'])} | "
                      f"{show(rate['postfix'])} | {ratio(rate['holdfast'], rate['sink'])} | {ratio(rate['holdfast'], rate['postfix'])} | "
                      f"{show(cpu['holdfast'], 3)} | {show(cpu['postfix'], 3)} |")
    print('\nRelay of 2 KiB messages to a sink, until the last one is there')
    print('| sessions | holdfast | postfix | ratio | CPU holdfast | CPU postfix |\n|---|---|---|---|---|---|')
    for sessions in (20, 100):
        rate = {who: median_of(results, 'relay', who, 'rate', sessions=sessions) for who in ('holdfast', 'postfix')}
        cpu = {who: median_of(results, 'relay', who, 'cpu_ms', sessions=sessions) for who in ('holdfast', 'postfix')}
        print(f"| {sessions} | {show(rate['holdfast'])} | {show(rate['postfix'])} | {ratio(rate['holdfast'], rate['postfix'])} | "
              f"{show(cpu['holdfast'], 3)} | {show(cpu['postfix'], 3)} |")
    print('\nMemory (proportional set size, all processes)')
    print('| server | at rest, KiB | an idle connection after EHLO, KiB |\n|---|---|---|')
    for who in ('holdfast', 'postfix'):
        print(f"| {who} | {show(median_of(results, 'memory', who, 'at_rest_kib'))} | {show(median_of(results, 'memory', who, 'each_kib'), 1)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', required=True)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--only', choices=('accept', 'relay', 'memory'))
    parser.add_argument('--json', help='append every measurement to this file')
    parser.add_argument('--without-postfix', dest='postfix', action='store_false')
    options = parser.parse_args()
    options.binary = os.path.join(os.path.abspath(options.build), 'holdfast')
    options.log = open(options.json, 'a') if options.json else sys.stderr
    if not shutil.which('smtp-source', path='/usr/sbin:/usr/bin:' + os.environ.get('PATH', '')):
        raise SystemExit('bench: smtp-source is not installed (Debian package postfix)')
    os.environ['PATH'] += ':/usr/sbin'
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    folder = tempfile.mkdtemp(prefix='holdfast-bench-')
    os.chmod(folder, 0o755)
    results = []
    print(f'{os.cpu_count()} cores, {options.rounds} round(s), scratch on {folder}')
    try:
        for name, part in (('accept', accept_rounds), ('relay', relay_rounds), ('memory', memory)):
            if options.only in (None, name):
                part(folder, options, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table(results)


if __name__ == '__main__':
    main()
