#!/usr/bin/env python3
"""SPF, DKIM, ARC and DMARC in a running server against a name server that is silent, says SERVFAIL and lies: each row of the
table of causes with its reply, its journal line and its count; patience; forged fields; exempt clients; signing."""
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile

from lib import HOLDFAST, Checks, wait_until
from lib_dns import EMPTY, SERVFAIL, SILENT, ScriptedDns
from lib_faults import FaultServer, FromAddress, Mail, expect, expect_accepted, expect_healed
from test_faults_dns import resolver_text

HERE = '127.0.0.1'
NAMES = {
    ('', 'NS'): 'ns.example.',
    ('client.example', None): EMPTY,
    # SPF
    ('pass.example', 'TXT'): f'v=spf1 ip4:{HERE} -all',
    ('fail.example', 'TXT'): 'v=spf1 -all',
    ('soft.example', 'TXT'): 'v=spf1 ~all',
    ('wrong.example', 'TXT'): 'v=spf1 nonsense:x -all',
    ('sick.example', None): SERVFAIL,
    ('silent.example', None): SILENT,
    ('late.example', 'TXT'): 'v=spf1 include:sick.example -all',
    ('badhelo.example', 'TXT'): 'v=spf1 -all',
    # DMARC
    ('_dmarc.reject.example', 'TXT'): 'v=DMARC1; p=reject; aspf=s; adkim=s', ('reject.example', None): EMPTY,
    ('_dmarc.org.example', 'TXT'): 'v=DMARC1; p=reject; sp=none; np=reject', ('org.example', None): EMPTY,
    ('there.org.example', 'A'): '192.0.2.1', ('there.org.example', None): EMPTY,
    ('_dmarc.mild.example', 'TXT'): 'v=DMARC1; p=quarantine', ('mild.example', None): EMPTY,
    ('_dmarc.test.reject.example', 'TXT'): 'v=DMARC1; p=quarantine; t=y', ('test.reject.example', None): EMPTY,
    ('_dmarc.none.example', 'TXT'): 'v=DMARC1; p=none', ('none.example', None): EMPTY,
    ('_dmarc.two.example', 'TXT'): ('v=DMARC1; p=reject', 'v=DMARC1; p=none'), ('two.example', None): EMPTY,
    ('_dmarc.dmarcsick.example', None): SERVFAIL, ('dmarcsick.example', 'TXT'): f'v=spf1 ip4:{HERE} -all',
    ('_dmarc.fail.example', 'TXT'): 'v=DMARC1; p=reject',
    ('_dmarc.late.example', 'TXT'): 'v=DMARC1; p=reject',
    ('_dmarc.example', None): EMPTY,
    ('nokey._domainkey.reject.example', None): EMPTY,
    ('sickkey._domainkey.reject.example', None): SERVFAIL,
    ('silentkey._domainkey.reject.example', None): SILENT,
    ('sickkey._domainkey.none.example', None): SERVFAIL, ('sickkey._domainkey.other.example', None): SERVFAIL,
}
ALL = 'spf = record  dkim = record  dmarc = enforce  arc = record'


class Message(Mail):
    """One transaction with a message of its own."""

    def __init__(self, message, helo='client.example', **more):
        super().__init__(**more)
        self.message, self.helo = message, helo

    def text(self):
        return self.message

    def play(self, server, before_dot=None):
        with FromAddress(server.address(), self.source) as client:
            for stage, line in (('ehlo', f'EHLO {self.helo}'), ('mail', f'MAIL FROM:<{self.sender}>'),
                                ('rcpt', f'RCPT TO:<{self.to}>'), ('data', 'DATA')):
                reply = client.command(line)
                if reply.code >= 400:
                    return reply, stage
            client.send(self.text() + '.\r\n')
            reply = client.reply()
            client.command('QUIT')
            return reply, 'dot'


def letter(author, extra='', body='hello'):
    return f'{extra}From: <a@{author}>\r\nTo: <alice@home.example>\r\nSubject: test\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n{body}\r\n'


def mail(author, sender='x@client.example', extra='', **more):
    return Message(letter(author, extra), sender=sender, **more)


class Keys:
    """An Ed25519 key and `holdfast sign` with it."""

    def __init__(self, folder):
        self.folder, self.path = folder, os.path.join(folder, 'ed.pem')
        subprocess.run(['openssl', 'genpkey', '-algorithm', 'ed25519', '-out', self.path], check=True, stderr=subprocess.DEVNULL)
        der = subprocess.run(['openssl', 'pkey', '-in', self.path, '-pubout', '-outform', 'DER'], check=True, capture_output=True).stdout
        self.record = 'v=DKIM1; k=ed25519; p=' + base64.b64encode(der[-32:]).decode()

    def sign(self, text, domain, selector, *more):
        done = subprocess.run([HOLDFAST, 'sign', '-', '--domain', domain, '--selector', selector, '--key', self.path, *more],
                              input=text.encode(), capture_output=True, timeout=60, check=True)
        return done.stdout.decode()


def newest(server):
    return server.mails('alice', 'home.example')[-1].replace(b'\n', b'\r\n')  # Maildirs have LF


def results(server):
    """The newest message's header, unfolded: {lower-case name: [values]}."""
    head = newest(server).split(b'\r\n\r\n')[0].decode()
    found = {}
    for line in re.sub(r'\r\n[ \t]+', ' ', head).split('\r\n'):
        name, _, value = line.partition(':')
        found.setdefault(name.lower(), []).append(value.strip())
    return found


def taken_with(server, one, *words, without=()):
    """Accepted, and the Authentication-Results on top says all of this."""
    expect_accepted(server, one)
    fields = results(server).get('authentication-results', [])
    assert len(fields) == 1, f'there are {len(fields)} fields: {fields}'
    assert fields[0].startswith('mx.home.example;'), fields[0]
    for word in words:
        assert word in fields[0], f'{word!r} is not in {fields[0]!r}'
    for word in without:
        assert word not in fields[0], f'{word!r} is in {fields[0]!r}'
    return fields[0]


# ------------------------------------------------------------------ SPF

def spf(checks):
    dns = ScriptedDns(NAMES)
    with FaultServer(resolver_text(dns.port, 'spf = enforce')) as server:
        checks.run('spf: pass', lambda: taken_with(server, mail('a.example', 'x@pass.example'), 'spf=pass', 'smtp.mailfrom=x@pass.example'))
        checks.run('spf: Received-SPF', lambda: received_spf(server))
        checks.run('spf: none', lambda: taken_with(server, mail('a.example', 'x@client.example'), 'spf=none'))
        checks.run('spf: softfail is taken', lambda: taken_with(server, mail('a.example', 'x@soft.example'), 'spf=softfail'))
        for sender, reply, cause, stage in (('x@fail.example', '550 5.7.23', 'spf.fail', 'mail'),
                                            ('x@wrong.example', '550 5.7.24', 'spf.permerror', 'mail'),
                                            ('x@sick.example', '451 4.7.24', 'dns.spf.temperror', 'rcpt'),
                                            ('x@silent.example', '451 4.7.24', 'dns.spf.temperror', 'rcpt'),
                                            ('x@late.example', '451 4.7.24', 'dns.spf.temperror', 'rcpt')):
            checks.run(f'spf: {sender}: {cause}', lambda: expect(server, mail('a.example', sender), reply, cause, stage))
        checks.run('spf: HELO fails', lambda: expect(server, mail('a.example', 'x@pass.example', helo='badhelo.example'), '550 5.7.23',
                                                     'spf.fail', 'mail'))
        checks.run('spf: the null sender is judged by HELO', lambda: expect(server, mail('a.example', '', helo='fail.example'),
                                                                            '550 5.7.23', 'spf.fail', 'mail'))
        checks.run('spf: the null sender of a good HELO', lambda: taken_with(server, mail('a.example', '', helo='pass.example'), 'spf=pass',
                                                                             'smtp.helo=pass.example'))
        checks.run('spf: an unknown user is refused even so', lambda: expect(server, mail('a.example', 'x@sick.example', to='nobody@home.example'),
                                                                             '550 5.1.1', 'recipient.unknown', 'rcpt'))
        dns.script[('sick.example', None)] = EMPTY
        checks.run('spf: a domain that comes back is taken', lambda: expect_healed(server, mail('a.example', 'x@sick.example')))
    dns.close()


def received_spf(server):
    found = results(server).get('received-spf', [''])
    assert found[0].startswith('pass') and f'client-ip={HERE}' in found[0] and 'x@pass.example' in found[0], found


# ------------------------------------------------------------------ DMARC, DKIM

def dmarc(checks, keys):
    dns = ScriptedDns({**NAMES, ('ed._domainkey.reject.example', 'TXT'): keys.record, ('ed._domainkey.other.example', 'TXT'): keys.record,
                       ('ed._domainkey.dmarcsick.example', 'TXT'): keys.record})
    with FaultServer(resolver_text(dns.port, ALL)) as server:
        def refused(name, one, reply='550 5.7.1', cause='dmarc.reject'):
            checks.run(f'dmarc: {name}: {cause}', lambda: expect(server, one, reply, cause, 'dot'))

        def taken(name, one, *words):
            checks.run(f'dmarc: {name}', lambda: taken_with(server, one, *words))

        def signed(domain, selector, author, **more):
            return Message(keys.sign(letter(author), domain, selector), sender='x@client.example', **more)

        taken('no record', mail('client.example'), 'dmarc=none')
        refused('nothing passes', mail('reject.example'))
        checks.run('dmarc: the journal has the row of a report', lambda: journal_row(server))
        taken('DKIM passes in alignment', signed('reject.example', 'ed', 'reject.example'), 'dkim=pass', 'header.d=reject.example', 'dmarc=pass')
        refused('DKIM passes for somebody else', signed('other.example', 'ed', 'reject.example'))
        refused('strict alignment', signed('reject.example', 'ed', 'sub.reject.example').__class__(
            keys.sign(letter('reject.example'), 'sub.reject.example', 'ed'), sender='x@client.example'))
        changed = keys.sign(letter('reject.example'), 'reject.example', 'ed').replace('hello', 'hullo')
        refused('the body was changed', Message(changed, sender='x@client.example'))
        refused('SPF and DKIM both failed', Message(changed, sender='x@fail.example'), '550 5.7.26', 'dmarc.reject.multiple')
        refused('no such key', signed('reject.example', 'nokey', 'reject.example'))
        for selector in ('sickkey', 'silentkey'):
            refused(selector, signed('reject.example', selector, 'reject.example'), '451 4.7.5', 'dns.dkim.temperror')
        taken('a sick key where p=none', signed('none.example', 'sickkey', 'none.example'), 'dkim=temperror', 'dmarc=temperror')
        refused('SPF undecided and aligned', mail('late.example', 'x@late.example'), '451 4.7.24', 'dns.spf.temperror')
        refused('SPF undecided, of somebody else', mail('reject.example', 'x@late.example'))
        refused('the record cannot be had', mail('dmarcsick.example'), '451 4.7.1', 'dns.dmarc.temperror')
        taken('the record cannot be had, SPF passes for that very domain', mail('dmarcsick.example', 'x@dmarcsick.example'), 'spf=pass', 'dmarc=temperror')
        taken('the record cannot be had, DKIM passes for that very domain', signed('dmarcsick.example', 'ed', 'dmarcsick.example'), 'dkim=pass')
        taken('sp=none for a subdomain that exists', mail('there.org.example'), 'dmarc=fail', '(p=none)')
        refused('np=reject for one that does not', mail('gone.org.example'))
        taken('t=y: one step lower', mail('test.reject.example'), 'dmarc=fail', '(p=none)')
        taken('two records count for nothing', mail('two.example'), 'dmarc=none')
        taken('quarantine marks', mail('mild.example'), 'dmarc=fail', '(p=quarantine)')
        checks.run('dmarc: the mark', lambda: mark(server))
        twice = letter('client.example', 'From: <b@reject.example>\r\n')
        refused('two From fields', Message(twice), '550 5.6.0', 'message.malformed.header')
        refused('no From field', Message('To: <alice@home.example>\r\n\r\nhello\r\n'), '550 5.6.0', 'message.malformed.header')
        several = letter('client.example').replace('<a@client.example>', '<a@client.example>, "b" <b@reject.example>')
        refused('several authors: the strictest counts', Message(several))
        hidden = letter('client.example').replace('<a@client.example>', '"a@client.example" (x) <b@reject.example (y)>')
        refused('an author behind quotes and comments', Message(hidden))
        huge = letter('client.example').replace('Subject:', ''.join(f'X-{n}: {"x" * 900}\r\n' for n in range(400)) + 'Subject:')
        refused('a header beyond what is looked at', Message(huge), '550 5.6.0', 'message.malformed.header')
        refused('the null sender too', mail('reject.example', ''))
        dns.script[('_dmarc.dmarcsick.example', None)] = EMPTY
        checks.run('dmarc: a record that comes back is taken', lambda: expect_healed(server, mail('dmarcsick.example')))
    dns.close()


def journal_row(server):
    text = server.wait_events('message.authenticated', 1)[-1]['text']
    for word in ('disposition=reject', 'dmarc=fail', 'policy=reject', 'author=reject.example', 'policy_domain=reject.example',
                 'spf=none', 'spf_domain=client.example', 'dkim=none', 'spf_aligned=no', 'arc=none'):
        assert word in text, f'{word} is not in {text}'


def mark(server):
    assert results(server).get('x-holdfast-quarantine') == ['dmarc; domain=mild.example'], results(server)


def hold(checks):
    dns = ScriptedDns(NAMES)
    with FaultServer(resolver_text(dns.port, 'dmarc = enforce  quarantine = hold')) as server:
        def held():
            reply, _ = mail('mild.example').play(server)
            assert reply.code == 250, reply.lines
            wait_until('a held message', lambda: server.metric('holdfast_queue_messages', state='held') == 1)
            assert not server.mails('alice', 'home.example'), 'it was delivered'
        checks.run('dmarc: quarantine = hold', held)
    dns.close()


def strict(checks, keys):
    dns = ScriptedDns({**NAMES, ('ed._domainkey.any.example', 'TXT'): keys.record, ('ed._domainkey.list.example', 'TXT'): keys.record})
    with FaultServer(resolver_text(dns.port, 'dkim = enforce  arc = enforce')) as server:
        good = keys.sign(letter('any.example'), 'any.example', 'ed')
        checks.run('strict: a passing signature', lambda: taken_with(server, Message(good), 'dkim=pass', 'arc=none', without=('spf=',)))
        checks.run('strict: no signature', lambda: expect(server, mail('any.example'), '550 5.7.20', 'dkim.none_passed', 'dot'))
        sick = keys.sign(letter('any.example'), 'reject.example', 'sickkey')
        checks.run('strict: a key that cannot be had', lambda: expect(server, Message(sick), '451 4.7.5', 'dns.dkim.temperror', 'dot'))
        checks.run('strict: a good one beside it', lambda: taken_with(server, Message(keys.sign(sick, 'any.example', 'ed')), 'dkim=pass', 'dkim=temperror'))
        sealed = keys.sign(good, 'list.example', 'ed', '--arc')
        checks.run('strict: an intact chain', lambda: taken_with(server, Message(sealed), 'arc=pass'))
        broken = keys.sign(sealed.replace('Subject: test', 'Subject: tost'), 'any.example', 'ed')
        checks.run('strict: a broken chain', lambda: expect(server, Message(broken), '550 5.7.29', 'arc.fail', 'dot'))
    dns.close()


def trusted_chain(checks, keys):
    dns = ScriptedDns({**NAMES, ('ed._domainkey.list.example', 'TXT'): keys.record, ('ed._domainkey.rogue.example', 'TXT'): keys.record})
    with FaultServer(resolver_text(dns.port, ALL + '  trusted_sealers = "other.example list.example"')) as server:
        sealed = Message(keys.sign(letter('reject.example'), 'list.example', 'ed', '--arc'))
        rogue = Message(keys.sign(letter('reject.example'), 'rogue.example', 'ed', '--arc'))
        checks.run('arc: a trusted chain overrides p=reject', lambda: taken_with(server, sealed, 'arc=pass', 'dmarc=fail'))
        checks.run('arc: and the journal says so', lambda: overridden(server))
        checks.run('arc: a chain of nobody we know does not', lambda: expect(server, rogue, '550 5.7.1', 'dmarc.reject', 'dot'))
        sick = Message(keys.sign(letter('reject.example'), 'other.example', 'sickkey', '--arc'))
        checks.run('arc: its key cannot be had', lambda: expect(server, sick, '451 4.7.5', 'dns.dkim.temperror', 'dot'))
    dns.close()


def overridden(server):
    text = server.events('message.authenticated')[-1]['text']
    assert 'disposition=none' in text and 'override=trusted_forwarder' in text, text


# ------------------------------------------------------------------ patience

def patience(checks, keys):
    dns = ScriptedDns(NAMES)
    with FaultServer(resolver_text(dns.port, f'spf = enforce  dmarc = enforce  patience = 3s')) as server:
        one = mail('client.example', 'x@sick.example')
        checks.run('patience: deferred at first', lambda: expect(server, one, '451 4.7.24', 'dns.spf.temperror', 'rcpt'))
        checks.run('patience: then taken', lambda: expect_healed(server, one))
        checks.run('patience: recorded as temperror', lambda: recorded(server, 'spf=temperror'))
        checks.run('patience: another recipient starts anew', lambda: expect(server, mail('client.example', 'x@sick.example', to='bob@home.example'),
                                                                             '451 4.7.24', 'dns.spf.temperror', 'rcpt'))
        two = mail('dmarcsick.example')
        checks.run('patience: a record, deferred at first', lambda: expect(server, two, '451 4.7.1', 'dns.dmarc.temperror', 'dot'))
        checks.run('patience: then taken as if there were none', lambda: expect_healed(server, two))
        checks.run('patience: recorded too', lambda: recorded(server, 'dmarc=temperror'))
    dns.close()


def recorded(server, word):
    wait_until(f'a message with {word}', lambda: any(word.encode() in one for one in server.mails('alice', 'home.example')))


# ------------------------------------------------------------------ forged fields

FORGED = {
    'plain': 'Authentication-Results: mx.home.example; dkim=pass header.d=bank.example\r\n',
    'upper case': 'AUTHENTICATION-RESULTS: MX.HOME.EXAMPLE; dkim=pass\r\n',
    'quoted': 'Authentication-Results: "mx.home.example"; dkim=pass\r\n',
    'quoted with an escape': 'Authentication-Results: "mx.h\\ome.example"; dkim=pass\r\n',
    'behind a comment': 'Authentication-Results: (a (nested) comment) mx.home.example; dkim=pass\r\n',
    'folded': 'Authentication-Results:\r\n mx.home.example\r\n ; dkim=pass\r\n',
    'folded in a comment': 'Authentication-Results: (x\r\n y) mx.home.example 1; dkim=pass\r\n',
    'a version': 'Authentication-Results: mx.home.example 1; dkim=pass\r\n',
    'a final dot': 'Authentication-Results: mx.home.example.; dkim=pass\r\n',
    'a blank before the colon': 'Authentication-Results : mx.home.example; dkim=pass\r\n',
    'a comment that never ends': 'Authentication-Results: (mx.home.example; dkim=pass\r\n',
    'very long': 'Authentication-Results: mx.home.example; ' + ''.join(f'\r\n dkim=pass header.d=d{n}.example;' for n in range(9000)) + '\r\n',
}
KEPT = 'Authentication-Results: mx.elsewhere.example; dkim=pass header.d=kept.example\r\n'


def forged(checks):
    dns = ScriptedDns(NAMES)
    for name, settings in (('recorded', 'spf = record  dkim = record'), ('off', '')):
        with FaultServer(resolver_text(dns.port, settings)) as server:
            for spelling, field in FORGED.items():
                checks.run(f'forged, checks {name}: {spelling}', lambda: stripped(server, field, settings != ''))
            checks.run(f'forged, checks {name}: by BDAT in pieces', lambda: stripped_by_bdat(server))
    dns.close()


def stripped(server, field, ours):
    body = 'Authentication-Results: mx.home.example; this is the body\r\n'
    for text in (field + KEPT + letter('client.example', body=body), letter('client.example', body=body).replace('\r\n\r\n', '\r\n' + field + KEPT + '\r\n', 1)):
        expect_accepted(server, Message(text))
        stored = newest(server)
        found = results(server).get('authentication-results', [])
        assert len(found) == 1 + ours and found[-1].startswith('mx.elsewhere.example'), found
        assert stored.endswith(letter('client.example', body=body).split('\r\n\r\n', 1)[1].encode()), 'the body was changed'


def stripped_by_bdat(server):
    text = (FORGED['folded'] + KEPT + letter('client.example')).encode()
    there = len(server.mails('alice', 'home.example'))
    with FromAddress(server.address(), HERE) as client:
        for line in ('EHLO client.example', 'MAIL FROM:<x@client.example>', 'RCPT TO:<alice@home.example>'):
            assert client.command(line).code == 250
        for at in range(0, len(text), 7):
            last = ' LAST' if at + 7 >= len(text) else ''
            piece = text[at:at + 7]
            client.send(f'BDAT {len(piece)}{last}\r\n'.encode() + piece)
            assert client.reply().code == 250
    server.wait_mails('alice', there + 1, 'home.example')
    found = [field for field in results(server).get('authentication-results', []) if 'spf=' not in field]
    assert found == ['mx.elsewhere.example; dkim=pass header.d=kept.example'], found


# ------------------------------------------------------------------ our own clients

def exempt(checks):
    dns = ScriptedDns(NAMES)
    with FaultServer(resolver_text(dns.port, 'spf = enforce  dkim = enforce  dmarc = enforce  arc = enforce')
                     + 'relay { from = {"127.0.0.0/8"} }\n') as server:
        checks.run('a client of relay.from is not asked', lambda: expect_accepted(server, mail('reject.example', 'x@fail.example')))
        checks.run('and no results are made up', lambda: nothing_said(server, dns))
    dns.close()


def nothing_said(server, dns):
    assert 'authentication-results' not in results(server), results(server)
    assert not any('fail.example' in name for name, _ in dns.asked), dns.asked


def signing(checks, keys, folder):
    rsa = os.path.join(folder, 'rsa.pem')
    subprocess.run(['openssl', 'genrsa', '-traditional', '-out', rsa, '2048'], check=True, stderr=subprocess.DEVNULL)
    der = subprocess.run(['openssl', 'rsa', '-in', rsa, '-pubout', '-outform', 'DER'], check=True, capture_output=True).stdout
    record = 'v=DKIM1; k=rsa; p=' + base64.b64encode(der).decode()
    dns = ScriptedDns({**NAMES, ('rsa._domainkey.ours.example', 'TXT'): record, ('ed._domainkey.ours.example', 'TXT'): keys.record})
    text = (resolver_text(dns.port, '') + 'relay { from = {"127.0.0.1"} }\n'
            f'sign one {{ domain = "ours.example"  selector = "rsa"  key = "{rsa}" }}\n'
            f'sign two {{ domain = "ours.example"  selector = "ed"  key = "{keys.path}" }}\n')
    with FaultServer(text) as server:
        def signed(author, count):
            expect_accepted(server, mail(author))
            stored = newest(server)
            path = os.path.join(folder, 'stored.eml')
            with open(path, 'wb') as file:
                file.write(stored.split(b'\r\n', 1)[1] if stored.startswith(b'Return-Path') else stored)
            done = subprocess.run([HOLDFAST, 'auth', path, '--ip', '192.0.2.1', '--helo', 'h.example', '--from', 'x@ours.example', '--json',
                                   '--resolver', f'127.0.0.1@{dns.port}'], capture_output=True, timeout=60)
            found = [(one['result'], one['domain'], one['selector']) for one in json.loads(done.stdout)['dkim']]
            assert sorted(found) == [('pass', 'ours.example', name) for name in ('ed', 'rsa')][:count], found
        checks.run('sign: both keys of the domain', lambda: signed('ours.example', 2))
        checks.run('sign: a domain below it', lambda: signed('sub.ours.example', 2))
        checks.run('sign: nobody else\'s mail', lambda: signed('other.example', 0))
        checks.run('sign: nor from clients that are not ours', lambda: foreign(server))
    with FaultServer(text.replace(rsa, '/nonexistent/key.pem'), start=False) as server:
        code, _, words = server.run('serve')
        checks.ok('sign: a missing key is said at start', code != 0 and '/nonexistent/key.pem' in words, words)
    dns.close()


def foreign(server):
    expect_accepted(server, mail('ours.example', source='127.0.0.2'))
    assert 'dkim-signature' not in results(server), results(server)


def main():
    checks = Checks()
    spf(checks)
    hold(checks)
    forged(checks)
    exempt(checks)
    if not shutil.which('openssl'):
        checks.skip('dkim, dmarc, arc, signing', 'openssl is not installed')
        return checks.done()
    with tempfile.TemporaryDirectory(prefix='holdfast-test-') as folder:
        keys = Keys(folder)
        dmarc(checks, keys)
        strict(checks, keys)
        trusted_chain(checks, keys)
        patience(checks, keys)
        signing(checks, keys, folder)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
