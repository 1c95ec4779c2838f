#!/usr/bin/env python3
"""The state of the host seen from a terminal: no descriptor for a new client, a certificate that ends soon, a clock that jumps, a
configuration that cannot be taken. Each is an event, a metric and an incident with cause, side and what to run; and it ends by itself
when that was done."""
import glob
import os
import re
import resource
import shutil
import signal
import subprocess

from lib import Checks, Client, wait_until
from lib_faults import FaultServer, Mail, expect_accepted, expect_healed
from test_diagnosis import sees, steps, type_in
from test_diagnosis_faults import certificate

checks = Checks()
SETTLE = 'incidents { settle = 200ms }\n'


def worker_of(server):
    """The process that has the sessions: the parent's child that is no keeper of keys, or the one process there is."""
    children = [pid for name in glob.glob(f'/proc/{server.process.pid}/task/*/children') for pid in open(name).read().split()]
    for pid in children:
        with open(f'/proc/{pid}/cmdline') as file:
            if 'worker' in file.read():
                return int(pid)
    return server.process.pid


def no_descriptor_for_a_client():
    """All that the limit allows are open: who comes now is told so at once, though there is no descriptor for him."""
    with FaultServer(SETTLE) as server:
        expect_accepted(server, Mail())
        pid = worker_of(server)
        former = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir(f'/proc/{pid}/fd'))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 5, former[1]))
        clients, refused = [], 0
        while refused < 3:
            clients.append(Client(server.address()))
            if clients[-1].banner.code != 220:
                sees(clients[-1].banner.lines[-1], '421 4.3.2', '(server.busy)')
                refused += 1
        for client in clients:
            client.socket.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, former)
        incident = server.wait_events('incident.open')[0]
        assert incident['cause'] == 'server.busy' and incident['side'] == 'ours', incident
        assert server.metric('holdfast_descriptors_out_total') == refused
        event = server.events('message.deferred')[0]
        assert event['stage'] == 'connect' and re.match('[0-9A-Z]{13}$', event['session']), event
        text = server.run('why', '--in')[1]
        sees(text, 'server.busy (side: ours)', 'no descriptor is left: the limit of open files is reached', 'holdfast status')
        expect_healed(server, Mail())
        server.wait_events('incident.closed')


def certificate_ends_soon():
    """Two weeks ahead, one week, a day, and when it is over; a renewed one ends it."""
    server = FaultServer(SETTLE + 'tls { certificate = "{folder}/own.pem"  key = "{folder}/own.key" }\n', start=False)
    path = os.path.join(server.folder, 'own.pem')
    certificate(server.folder, -30, 10)
    server.start()
    with server:
        event = server.wait_events('certificate.expiring')[0]
        assert event['cause'] == 'certificate.expiring' and event['side'] == 'ours' and event['filter'] == path, event
        assert 9.9 * 86400 < server.metric('holdfast_certificate_expiry_seconds', certificate=path) <= 10 * 86400
        server.wait_events('incident.open')
        text = server.run('incidents')[1]
        sees(text, 'certificate.expiring (side: ours)', f'at {path}', 'said:  it ends 20', 'do:    Renew the files of section tls', 'holdfast reload')
        shown, = [step for step in steps(text) if step.startswith('openssl')]
        sees(subprocess.run(shown.split(), capture_output=True, text=True, check=True).stdout, 'notAfter=')
        sees(server.run('status')[1], 'certificate: ends 20')
        certificate(server.folder, -30, -1)
        assert server.run('reload')[0] == 0
        assert server.wait_events('certificate.expiring', 2)[1]['cause'] == 'certificate.expired'
        server.wait_events('incident.closed')
        wait_until('the other incident', lambda: 'certificate.expired (side: ours)' in server.run('incidents')[1])
        assert server.metric('holdfast_certificate_expiry_seconds', certificate=path) < 0
        certificate(server.folder, -1, 60)
        assert type_in(server, 'holdfast reload')[0] == 0
        server.wait_events('certificate.renewed')
        server.wait_events('incident.closed', 2)
        assert 'No incident' in server.run('incidents')[1]


FAKETIME = glob.glob('/usr/lib/*/faketime/libfaketimeMT.so.1')


def clock_jumps():
    """Ten years ahead, and back: nothing expires, and the operator is told by how much."""
    server = FaultServer(SETTLE + 'relay { from = {"127.0.0.0/8"} }\nroute "far.example" { via = "smtp:127.0.0.1:1" }\n', start=False)
    when = os.path.join(server.folder, 'when')

    def clock(offset):
        with open(when + '.new', 'w') as file:
            file.write(offset)
        os.rename(when + '.new', when)
    clock('+0')
    server.command = ['env', f'LD_PRELOAD={FAKETIME[0]}', f'FAKETIME_TIMESTAMP_FILE={when}', 'FAKETIME_NO_CACHE=1',
                      'FAKETIME_DONT_FAKE_MONOTONIC=1', 'DONT_FAKE_MONOTONIC=1']
    server.options = ['--one-process']
    server.start()
    with server:
        Mail(to='x@far.example').play(server)
        message = server.wait_events('delivery.deferred')[0]['message']
        clock('+3650d')
        event = server.wait_events('clock.jumped')[0]
        assert event['cause'] == 'clock.jumped' and event['side'] == 'ours', event
        sees(event['text'], 'the clock went forward by 36')
        wait_until('the incident', lambda: 'clock.jumped' in server.run('incidents')[1])
        text = server.run('why', '--in')[1]
        sees(text, 'clock.jumped (side: ours)', 'at clock', 'went forward by', 'No mail expires by that', 'timedatectl', 'holdfast status')
        clock('+0')
        sees(server.wait_events('clock.jumped', 2)[1]['text'], 'the clock went back by 36')
        assert server.metric('holdfast_clock_jumps_total') == 2
        assert not server.events('message.expired') and not server.events('message.bounced')
        sees(server.run('why', message)[1], message, 'connect.refused')
        expect_healed(server, Mail())
        wait_until('it to be over', lambda: 'clock.jumped' not in server.run('incidents')[1])


def bad_reload():
    """The configuration before goes on; what is wrong is named by file and line until it is right."""
    with FaultServer(SETTLE) as server:
        with open(server.config) as file:
            good = file.read()
        with open(server.config, 'w') as file:
            file.write(good + 'limits { recipients = "many" }\n')
        code, out, err = server.run('reload')
        assert code != 0, out
        sees(out + err, f'{server.config}:', 'recipients')
        os.kill(server.process.pid, signal.SIGHUP)      # as systemd and package scripts do: nobody reads an answer
        event = server.wait_events('config.refused')[0]
        assert event['cause'] == 'config.refused' and event['side'] == 'ours', event
        server.wait_events('incident.open')
        expect_accepted(server, Mail())
        # Each command reads that file, too: it says the same of it, and then what the running server has to say.
        for words in (('incidents',), ('why', '--in'), ('status',)):
            code, out, err = server.run(*words)
            assert code == 0, (words, out, err)
            sees(err, f'{server.config}:', 'recipients', 'what follows is of the server that runs')
            sees(out, 'config.refused')
        text = server.run('incidents')[1]
        sees(text, 'config.refused (side: ours)', f'at {server.config}', 'recipients', f'holdfast config check -c {server.config}')
        check, = [step for step in steps(text) if 'config check' in step]
        sees(''.join(type_in(server, check)[1:]), 'recipients')
        with open(server.config + '.good', 'w') as file:
            file.write(good)
        os.rename(server.config + '.good', server.config)
        assert type_in(server, 'holdfast reload')[0] == 0
        server.wait_events('incident.closed')
        assert 'No incident' in server.run('incidents')[1]


def broken_file():
    """Nobody reloaded: the file was only saved half-way. The commands that look and act go on; what needs the file itself says why not."""
    with FaultServer(SETTLE + 'relay { from = {"127.0.0.0/8"} }\nroute "far.example" { via = "smtp:127.0.0.1:1" }\n') as server:
        Mail(to='x@far.example').play(server)
        message = server.wait_events('delivery.deferred')[0]['message']
        with open(server.config) as file:
            good = file.read()
        with open(server.config, 'w') as file:
            file.write(good + 'limits { recipients = 100\n')
        line = good.count('\n') + 1
        for words in (('status',), ('why', message), ('why', '--in'), ('queue',), ('retry', message)):
            code, out, err = server.run(*words)
            assert code == 0, (words, out, err)
            sees(err, f'{server.config}:{line}: ', 'is not closed', 'with the configuration that it took before')
        text = server.run('why', message)[1]
        # The story of another fault: no row of the table.
        assert 'cause connect.refused (theirs)' in text and 'returned to the sender after' in text and 'holdfast retry' in text, text
        for words in (('reload',), ('config', 'check')):
            code, out, err = server.run(*words)
            assert code == 1, (words, out, err)
            sees(err, f'{server.config}:{line}: ', 'is not closed')
        server.stop()
        code, out, err = server.run('status')
        assert code == 1 and not out, (code, out, err)
        sees(err, f'{server.config}:{line}: ', 'is the server running?')
        with open(server.config, 'w') as file:
            file.write(good)
        server.start()
        assert server.run('status')[2] == '', 'the file is whole again'


def main():
    checks.run('machine: no descriptor for a new client', no_descriptor_for_a_client)
    checks.run('machine: bad configuration on reload', bad_reload)
    checks.run('machine: a broken configuration file', broken_file)
    if FAKETIME:
        checks.run('machine: the clock jumps', clock_jumps)
    else:
        checks.skip('machine: the clock jumps', 'faketime is absent')
    if shutil.which('openssl'):
        checks.run('TLS: our certificate ends soon', certificate_ends_soon)
    else:
        checks.skip('TLS: our certificate ends soon', 'openssl is absent')
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
