#!/usr/bin/env python3
"""DNS's fault domain: the sender's domain and the client's reverse name, against a scripted name server that is silent,
says SERVFAIL or NXDOMAIN, and against a real nsd that is paused. Only an authoritative "no" refuses."""
import os
import shutil
import signal
import socket
import subprocess

from lib import Checks, wait_until
from lib_dns import EMPTY, SERVFAIL, SILENT, ScriptedDns, make_query
from lib_faults import FaultServer, Mail, expect, expect_accepted, expect_healed, free_port

ROOT = {('', 'NS'): 'ns.example.'}
SENDERS = {
    ('good.example', 'MX'): '10 mx.good.example.',
    ('address.example', 'MX'): EMPTY, ('address.example', 'A'): '192.0.2.1', ('address.example', 'AAAA'): EMPTY,
    ('null.example', 'MX'): '0 .',
    ('bare.example', None): EMPTY,
    ('sick.example', None): SERVFAIL,
    ('silent.example', None): SILENT,
    ('half.example', 'MX'): EMPTY, ('half.example', 'A'): SILENT, ('half.example', 'AAAA'): EMPTY,
}
CLIENTS = {
    ('2.0.0.127.in-addr.arpa', 'PTR'): 'client.example.', ('client.example', 'A'): '127.0.0.2',
    ('4.0.0.127.in-addr.arpa', 'PTR'): 'client.example.',
    ('5.0.0.127.in-addr.arpa', 'PTR'): SERVFAIL,
    ('6.0.0.127.in-addr.arpa', 'PTR'): SILENT,
    ('7.0.0.127.in-addr.arpa', 'PTR'): 'sick.example.',
}


def resolver_text(port, checks):
    return f'resolver {{ forward = {{"127.0.0.1@{port}"}}  timeout = 1s }}\nchecks {{ {checks} }}\n'


def sender(domain):
    return Mail(sender=f'someone@{domain}')


# ------------------------------------------------------------------ the sender's domain

def senders(checks):
    server_of_names = ScriptedDns({**ROOT, **SENDERS})
    with FaultServer(resolver_text(server_of_names.port, 'sender_domain = require')) as server:
        for domain in ('good.example', 'address.example', 'home.example', '[192.0.2.1]'):
            checks.run(f'sender {domain} is taken', lambda: expect_accepted(server, sender(domain)))
        checks.run('the null sender is taken', lambda: expect_accepted(server, Mail(sender='')))
        for domain, reply, cause in (('gone.example', '550 5.1.8', 'sender.unresolvable'),
                                     ('bare.example', '550 5.1.8', 'sender.unresolvable'),
                                     ('null.example', '550 5.7.27', 'sender.null_mx'),
                                     ('sick.example', '451 4.1.8', 'dns.sender.temperror'),
                                     ('silent.example', '451 4.1.8', 'dns.sender.temperror'),
                                     ('half.example', '451 4.1.8', 'dns.sender.temperror')):
            checks.run(f'sender {domain}: {cause}', lambda: expect(server, sender(domain), reply, cause, 'mail'))
        server_of_names.script[('silent.example', None)] = SERVFAIL
        server_of_names.script[('silent.example', 'MX')] = '10 mx.good.example.'
        checks.run('a domain that comes back is taken', lambda: expect_healed(server, sender('silent.example')))
        checks.run('the time of questions is measured', lambda: measured(server))
    server_of_names.close()


def measured(server):
    assert server.metric('holdfast_dns_seconds_count') >= 5, 'holdfast_dns_seconds_count is too low'


# ------------------------------------------------------------------ the client's reverse name

def clients(checks):
    server_of_names = ScriptedDns({**ROOT, **SENDERS, **CLIENTS})
    with FaultServer(resolver_text(server_of_names.port, 'reverse_dns = enforce')) as server:
        checks.run('a confirmed client is taken', lambda: confirmed(server))
        for source, what, reply, cause in (
                ('127.0.0.3', 'no name', '550 5.7.25', 'reverse.absent'),
                ('127.0.0.4', 'a name that leads elsewhere', '550 5.7.25', 'reverse.absent'),
                ('127.0.0.5', 'SERVFAIL', '451 4.7.25', 'dns.reverse.temperror'),
                ('127.0.0.6', 'silence', '451 4.7.25', 'dns.reverse.temperror'),
                ('127.0.0.7', 'a name whose address cannot be had', '451 4.7.25', 'dns.reverse.temperror')):
            checks.run(f'client with {what}: {cause}', lambda: expect(server, Mail(source=source), reply, cause, 'mail'))
        server_of_names.script[('5.0.0.127.in-addr.arpa', 'PTR')] = 'five.example.'
        server_of_names.script[('five.example', 'A')] = '127.0.0.5'
        checks.run('a client whose name comes back is taken', lambda: expect_healed(server, Mail(source='127.0.0.5')))
    server_of_names.close()


def confirmed(server):
    expect_accepted(server, Mail(source='127.0.0.2'))
    mail = server.mails('alice', 'home.example')[-1]
    assert b'client.example' in mail.split(b'\r\n\r\n')[0], 'Received does not name the client'


# ------------------------------------------------------------------ nothing answers

def dead(checks):
    server_of_names = ScriptedDns({**ROOT, **CLIENTS, ('mx.home.example', None): EMPTY}, dead=True)
    with FaultServer(resolver_text(server_of_names.port, 'reverse_dns = enforce  sender_domain = require')) as server:
        checks.run('no DNS at all: told at connect', lambda: resolver_down(server))
        server_of_names.dead = False
        checks.run('and over by itself', lambda: resolver_up(server))
    server_of_names.close()


def resolver_down(server):
    expect(server, Mail(source='127.0.0.2'), '421 4.4.3', 'dns.resolver.down', 'connect')
    server.wait_events('breaker.open', 1, filter='resolver')
    assert server.metric('holdfast_breaker_open', dependency='resolver') == 1, 'the gauge does not say so'
    expect(server, Mail(source='127.0.0.2'), '421 4.4.3', 'dns.resolver.down', 'connect')


def resolver_up(server):
    server.wait_events('breaker.closed', 1, filter='resolver')
    assert server.metric('holdfast_breaker_open', dependency='resolver') == 0, 'the gauge does not say so'
    mail = Mail(sender='', source='127.0.0.2')
    wait_until('a 250', lambda: mail.play(server)[0].code == 250)


# ------------------------------------------------------------------ a real server

class Nsd:
    """nsd with the server's own zone and one other on a free port of loopback: it knows nothing else, and refuses that."""

    def __init__(self, folder):
        self.port, self.folder = free_port(socket.SOCK_DGRAM), folder
        os.makedirs(folder)
        with open(os.path.join(folder, 'zone'), 'w') as file:
            file.write('$ORIGIN real.example.\n$TTL 1\n@ SOA ns hostmaster 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n'
                       '@ MX 10 mx\nmx A 192.0.2.1\nnull MX 0 .\n')
        with open(os.path.join(folder, 'own'), 'w') as file:
            file.write('$ORIGIN home.example.\n$TTL 1\n@ SOA ns.real.example. hostmaster 1 60 60 60 1\n@ NS ns.real.example.\nmx A 127.0.0.1\n')
        self.conf = os.path.join(folder, 'nsd.conf')
        with open(self.conf, 'w') as file:
            file.write(f'server:\n ip-address: 127.0.0.1@{self.port}\n username: ""\n zonesdir: "{folder}"\n'
                       f' database: ""\n pidfile: "{folder}/nsd.pid"\n xfrdfile: "{folder}/xfrd"\n zonelistfile: "{folder}/list"\n'
                       f' xfrdir: "{folder}"\n server-count: 1\n verbosity: 0\n logfile: "{folder}/log"\n'
                       'remote-control:\n control-enable: no\n'
                       'zone:\n name: "real.example"\n zonefile: "zone"\n'
                       'zone:\n name: "home.example"\n zonefile: "own"\n')
        self.process = subprocess.Popen(['nsd', '-d', '-c', self.conf], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until('nsd to answer', self.answers)
        except AssertionError:
            self.close()
            raise

    def answers(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            try:
                client.sendto(make_query('real.example', 'MX'), ('127.0.0.1', self.port))
                return client.recv(4096)[6:8] == b'\0\1'  # one answer
            except OSError:
                return False

    def signal(self, number):
        os.killpg(self.process.pid, number)  # the group holds nsd and its children, and nobody else

    def close(self):
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait()


def real(checks):
    if not shutil.which('nsd'):
        checks.skip('a real name server', 'nsd is not installed')
        return
    server = FaultServer('', start=False)
    nsd = Nsd(os.path.join(server.folder, 'nsd'))
    with open(server.config, 'a') as file:
        file.write(resolver_text(nsd.port, 'sender_domain = require'))
    try:
        with server:
            server.start()
            checks.run('nsd: a sender with an MX', lambda: expect_accepted(server, sender('real.example')))
            checks.run('nsd: no such name', lambda: expect(server, sender('gone.real.example'), '550 5.1.8', 'sender.unresolvable', 'mail'))
            checks.run('nsd: null MX', lambda: expect(server, sender('null.real.example'), '550 5.7.27', 'sender.null_mx', 'mail'))
            checks.run('nsd: another zone is refused by it, not absent',
                       lambda: expect(server, sender('other.example'), '451 4.1.8', 'dns.sender.temperror', 'mail'))
            checks.run('nsd: paused, then back', lambda: paused(server, nsd))
    finally:
        nsd.close()


def paused(server, nsd):
    nsd.signal(signal.SIGSTOP)
    expect(server, sender('mx.real.example'), '451 4.4.3', 'dns.resolver.failed', 'mail')
    nsd.signal(signal.SIGCONT)
    expect_healed(server, sender('mx.real.example'))


def main():
    checks = Checks()
    senders(checks)
    clients(checks)
    dead(checks)
    real(checks)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
