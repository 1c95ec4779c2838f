#!/usr/bin/env python3
"""Rows of the fault matrix that are not simply "it is down": names that are lame, cut short, in a circle or silent, a resolver that is
gone, filters that are overloaded, fed too much or poisoned, directories that answer half, hosts that hang up or say nothing. One
command says cause, side and what to do; that is done, and the mail moves again."""
import os
import re
import resource

from lib import Checks, Client, wait_until
from lib_directory import SLAPD, Slapd, skip_without
from lib_dns import REFUSED, SERVFAIL, SILENT, TRUNCATED, Alias, ScriptedDns
from lib_faults import FaultServer, Mail, expect_accepted, expect_healed, write_file
from lib_hop import NextHop
from test_diagnosis import peers, sees, steps, type_in, well
from test_diagnosis_host import worker_of
from test_faults_filter import CLEAN, FakeClamd
from test_faults_ldap import BASE, LDIF, SETTINGS, domain, users

checks = Checks()
OURS = Mail(body='this one', identity='<this@client.example>')
SETTLE = 'incidents { settle = 200ms }\n'
ROOT = {('', 'NS'): 'ns.example.'}


def resolver(dns, more=''):
    return f'resolver {{ forward = {{"127.0.0.1@{dns.port}"}}  timeout = 1s }}\nchecks {{ {more} }}\n{SETTLE}'


# ------------------------------------------------------------------ DNS

def names(fault, check='sender_domain = require', cause='dns.sender.temperror'):
    """The sender's names fail by the rows `fault`; the operator is told whose they are, and the same command shows when they are well."""
    dns = ScriptedDns({**ROOT, **fault})
    try:
        with FaultServer(resolver(dns, check)) as server:
            for _ in range(2):
                reply, _ = Mail(sender='s@sick.example').play(server)
                assert reply.code == 451 and reply.lines[-1].endswith(f'({cause})'), reply
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, cause, '(side: theirs)', 'at sick.example', 'means:', 'do:', 's@sick.example', '1 still out')
            command, = [step for step in steps(text) if 'dns check' in step]
            by = ('--resolver', f'127.0.0.1@{dns.port}')
            code, out, _ = server.run(*command.split()[1:], *by)
            assert code == 1 and 'sick.example' in out, f'the names are sick, and {command} says: {out}'
            dns.script = {**ROOT, ('sick.example', 'MX'): '10 mx.sick.example', ('mx.sick.example', 'A'): '192.0.2.1'}
            expect_healed(server, Mail(sender='s@sick.example'))
            sees(server.run('why', '--in')[1], '1 came back', '0 still out')
    finally:
        dns.close()


def no_resolver():
    """Nothing answers, not even the canary: it is our side, told at connect, and over by itself."""
    dns = ScriptedDns({**ROOT, ('2.0.0.127.in-addr.arpa', 'PTR'): 'client.example.', ('client.example', 'A'): '127.0.0.2'}, dead=True)
    try:
        with FaultServer(resolver(dns, 'reverse_dns = enforce')) as server:
            mail = Mail(sender='', source='127.0.0.2')
            reply, stage = mail.play(server)
            assert reply.code == 421 and stage == 'connect', reply
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'dns.resolver.down', '(side: ours)', 'at resolver', 'means:', 'do:', 'resolver { forward')
            command, = [step for step in steps(text) if step == 'holdfast status']
            sees(type_in(server, command)[1], 'resolver                 DOWN')
            dns.dead = False
            expect_healed(server, mail)
            server.wait_events('incident.closed')
            sees(type_in(server, command)[1], 'resolver                 up')
    finally:
        dns.close()


def known(name):
    return {(name, 'MX'): f'10 mx.{name}', (f'mx.{name}', 'A'): '192.0.2.1', (name, 'TXT'): 'v=spf1 +all'}


def resolver_dies(check, stage):
    """It answered this very moment; then it does not. The first mail that needs it is told whose fault that is."""
    dns = ScriptedDns({**known('good.example'), **known('other.example')})
    try:
        with FaultServer(resolver(dns, check)) as server:
            expect_accepted(server, Mail(sender='s@good.example'))
            dns.dead = True
            mail = Mail(sender='s@other.example')
            reply, where = mail.play(server)
            assert (reply.code, where) == (451, stage) and reply.lines[-1].endswith('(dns.resolver.failed)'), (reply, where)
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'dns.resolver.down (side: ours)', 'at resolver', 'no answer in time', 'means:', 'do:', 'resolver { forward', 's@other.example')
            assert 'theirs' not in text, text
            sees(type_in(server, 'holdfast status')[1], 'resolver                 DOWN')
            dns.dead = False
            expect_healed(server, mail)
            server.wait_events('incident.closed')
            assert not [event for event in server.events('message.deferred') if event['side'] != 'ours'], 'it was blamed on the other side'
            sees(server.run('why', '--in')[1], '1 came back', '0 still out')
    finally:
        dns.close()


def resolver_dies_for_delivery():
    """The next hop's names cannot be asked for, nor anything else: it is no fault of that destination's."""
    def well_said(hop):
        hop.say('220 hop')
        hop.serve()
    dns = ScriptedDns({}, dead=True)
    try:
        with NextHop(well_said) as hop, FaultServer(resolver(dns) + f'relay {{ from = {{"127.0.0.0/8"}}  port = {hop.port} }}\n'
                                                    'retry { schedule = {1h}  jitter = 0 }\n') as server:
            Mail(to='x@far.example').play(server)
            message = server.wait_events('delivery.deferred')[0]['message']
            server.wait_events('incident.open')
            text = server.run('why', message)[1]
            sees(text, 'cause dns.resolver.failed (ours)', 'said: no answer in time', 'resolver { forward', 'Incident ', 'means:', 'do:')
            sees(server.run('incidents')[1], 'sending: dns.resolver.failed (side: ours)  to resolver', '1 recipient(s) wait')
            dns.script, dns.dead = {('far.example', 'MX'): '10 mx.far.example', ('mx.far.example', 'A'): '127.0.0.1'}, False
            command, = [step for step in steps(text) if step == f'holdfast retry {message}']

            def delivered():
                type_in(server, command)
                return server.events('delivery.done')
            wait_until('it to be delivered', delivered)
            server.wait_events('incident.closed')
    finally:
        dns.close()


def no_descriptor_to_ask_with():
    """In the middle of a session there is none left for the question: neither the sender's names nor the resolver are to blame."""
    dns = ScriptedDns({**known('good.example'), **known('other.example')})
    try:
        with FaultServer(resolver(dns, 'sender_domain = require')) as server:
            expect_accepted(server, Mail(sender='s@good.example'))
            pid, client = worker_of(server), Client(server.address())
            client.command('EHLO client.example')
            former = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            taken = {int(name) for name in os.listdir(f'/proc/{pid}/fd')}
            free = next(number for number in range(len(taken) + 1) if number not in taken)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, former[1]))
            reply = client.command('MAIL FROM:<s@other.example>')
            resource.prlimit(pid, resource.RLIMIT_NOFILE, former)
            client.socket.close()
            sees(reply.lines[-1], '421 4.3.2', '(server.busy)')
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'server.busy (side: ours)', 'no descriptor is left to ask with: the limit of open files', 'holdfast status')
            assert 'theirs' not in text, text
            sees(type_in(server, 'holdfast status')[1], 'session(s) of at most')
            expect_healed(server, Mail(sender='s@other.example'))
            server.wait_events('incident.closed')
    finally:
        dns.close()


# ------------------------------------------------------------------ filters

def too_much(answer, cause, more, again, *named):
    """What one message does to a filter that is well: the cause says so, and names it. `again`: the operator's setting, after which
    it moves."""
    fake = FakeClamd()
    text = f'filter av {{ speaks = clamd  address = "{fake.address}"  timeout = 2s  %s }}\n{SETTLE}'
    try:
        with FaultServer(text % more) as server:
            expect_accepted(server, Mail())

            def send():
                """That message; others pass meanwhile."""
                fake.answer = answer
                reply, _ = OURS.play(server)
                fake.answer = CLEAN
                assert Mail(identity='<other@client.example>').play(server)[0].code == 250, 'others pass'
                return reply
            wait_until(f'{cause} to be said', lambda: send().lines[-1].endswith(f'({cause})'))
            said = server.run('why', '--in')[1]
            sees(said, cause, 'av: ', '1 still out')
            session = re.search(r'session=(\w{13})', said).group(1)
            sees(server.run('why', session)[1], cause, 'means:', 'do:', *named)
            assert server.run('filter', 'test', 'av')[0] == 0, 'the filter itself is well, and the command says so'
            with open(server.config) as file:
                configuration = file.read()
            with open(server.config, 'w') as file:
                file.write(configuration.replace(more, again))
            assert server.run('reload')[0] == 0
            wait_until('it to be taken', lambda: send().code == 250)
    finally:
        fake.close()


# ------------------------------------------------------------------ directories

def directory_half():
    """An answer cut at the server's size limit, and one that leads elsewhere: no answer, so 451, with the server's own words."""
    with Slapd(LDIF, SETTINGS, tls=False) as slapd:
        blind = '??sub?(|(mail={address})(title=same))?bindname=cn=holdfast%2cdc=home%2cdc=example,x-password-file={folder}/fine'
        text = (SETTLE + domain('limited.example', users(slapd, blind, base='ou=many,' + BASE))
                + domain('moved.example', users(slapd, base='ou=there,ou=elsewhere,' + BASE)))
        server = FaultServer(text, users=users(slapd), start=False)
        write_file(server, 'fine', 'right\n')
        server.start()
        with server:
            for address, words in (('a@limited.example', 'Size limit'), ('a@moved.example', 'Referral')):
                reply, stage = Mail(to=address).play(server)
                assert reply.code == 451 and stage == 'rcpt', reply
                text = wait_until(address, lambda: (lambda said: said if address in said else None)(server.run('why', '--in')[1]))
                sees(text, 'directory.unavailable', '(side: ours)', 'ldap://', words)
                command, = [step for step in steps(text) if f'alias expand {address}' in step]
                code, out, err = type_in(server, command)
                assert code != 0 and words in out + err, (code, out, err)
            expect_accepted(server, Mail())


# ------------------------------------------------------------------ peers

def busy(hop):
    hop.say('421 4.7.0 Too many connections from your host')


def main():
    checks.run('DNS: lame name servers', lambda: names({('sick.example', None): REFUSED}))
    checks.run('DNS: cut short, and no TCP', lambda: names({('sick.example', None): TRUNCATED}))
    checks.run('DNS: aliases in a circle', lambda: names({('sick.example', None): Alias('loop.sick.example'), ('loop.sick.example', None): Alias('sick.example')}))
    checks.run('DNS: silence', lambda: names({('sick.example', None): SILENT}))
    checks.run('DNS: SPF cannot be looked up', lambda: names({('sick.example', 'TXT'): SERVFAIL}, 'spf = enforce', 'dns.spf.temperror'))
    checks.run('DNS: our resolver is gone', no_resolver)
    checks.run('DNS: our resolver dies', lambda: resolver_dies('sender_domain = require', 'mail'))
    checks.run('DNS: our resolver dies, SPF', lambda: resolver_dies('spf = enforce', 'rcpt'))
    checks.run('DNS: our resolver dies, sending', resolver_dies_for_delivery)
    checks.run('DNS: no descriptor to ask with', no_descriptor_to_ask_with)
    checks.run('filters: more than it scans', lambda: too_much('INSTREAM size limit exceeded. ERROR\0', 'filter.unscannable', 'on_fault = defer', 'on_fault = accept', 'on_fault'))
    checks.run('filters: a message that kills it', lambda: too_much('', 'filter.poison', 'poison_after = 1', 'poison_after = 1  on_poison = hold', 'on_poison'))
    checks.run('peers: too busy', lambda: peers(busy, well, 'remote.deferred', 'Too many connections'))
    if not skip_without(checks, 'directory: half an answer', SLAPD):
        checks.run('directory: half an answer', directory_half)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
