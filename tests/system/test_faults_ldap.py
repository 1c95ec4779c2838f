#!/usr/bin/env python3
"""The directory's fault domain over LDAP, with a real slapd: only an authoritative "no such user" refuses. Stopped, frozen,
limited, referring elsewhere, misconfigured: it defers, with its own words in the journal, and heals by itself."""
import signal

from lib import Checks, wait_until
from lib_directory import SLAPD, Load, Slapd, skip_without, tls_certificate
from lib_faults import FaultServer, Mail, expect, expect_accepted, expect_healed, write_file

BASE = Slapd.SUFFIX
PEOPLE = 'ou=people,' + BASE
UNKNOWN = Mail(to='nobody@home.example')


def person(name, where=PEOPLE, more=''):
    return f'dn: cn={name},{where}\nobjectClass: inetOrgPerson\ncn: {name}\nsn: {name}\nmail: {name}@home.example\n{more}\n'


def unit(name):
    return f'dn: ou={name},{BASE}\nobjectClass: organizationalUnit\nou: {name}\n\n'


LDIF = (f'dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Home\ndc: home\n\n'
        + unit('people') + unit('aliases') + unit('many') + unit('elsewhere')
        + person('alice') + person('bob')
        + f'dn: cn=holdfast,{BASE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: holdfast\nuserPassword: right\n\n'
        + f'dn: cn=blind,{BASE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: blind\nuserPassword: right\n\n'
        + ''.join(person(f'm{number}', 'ou=many,' + BASE, 'title: same\n') for number in range(5))
        + f'dn: cn=team,ou=aliases,{BASE}\nobjectClass: nisMailAlias\ncn: team\nrfc822MailMember: alice\nrfc822MailMember: bob@home.example\n\n'
        + f'dn: cn=pipe,ou=aliases,{BASE}\nobjectClass: nisMailAlias\ncn: pipe\nrfc822MailMember: |/bin/true\n\n'
        + f'dn: cn=empty,ou=aliases,{BASE}\nobjectClass: nisMailAlias\ncn: empty\n\n'
        + f'dn: ou=there,ou=elsewhere,{BASE}\nobjectClass: referral\nobjectClass: extensibleObject\nou: there\n'
          f'ref: ldap://192.0.2.1/ou=people,{BASE}\n\n')
SETTINGS = (f'limits dn.exact="cn=holdfast,{BASE}" size=3\n'
            f'access to attrs=userPassword by anonymous auth by * none\n'
            f'access to * by dn.exact="cn=blind,{BASE}" search by * read\n')


def users(slapd, rest='', base=PEOPLE, scheme='ldap', port=None):
    return f'{scheme}://127.0.0.1:{port or slapd.port}/{base}{rest}'


def aliases(slapd):
    return users(slapd, base='ou=aliases,' + BASE)


def domain(name, source, more=''):
    return f'domain "{name}" {{ users = "{source}"  {more} deliver = "maildir:{{folder}}/mail/{{domain}}/{{user}}" }}\n'


def deferred(server, mail, reply, cause, words):
    event = expect(server, mail, reply, cause, 'rcpt')
    assert words.lower() in event.get('text', '').lower(), f'the journal does not say {words!r}: {event}'


def unavailable(server, mail, words):
    deferred(server, mail, '451 4.3.0', 'directory.unavailable', words)


def misconfigured(server, mail, words):
    deferred(server, mail, '451 4.3.5', 'directory.misconfigured', words)


def refused(server, mail=UNKNOWN):
    expect(server, mail, '550 5.1.1', 'recipient.unknown', 'rcpt')


def healed(server):
    expect_healed(server, Mail())
    wait_until('the breakers to close', lambda: server.metric('holdfast_breaker_open') == 0)
    wait_until('the directory to refuse again', lambda: UNKNOWN.play(server)[0].code == 550)
    refused(server)


def breaker_opened(server):
    opened = server.wait_events('breaker.open', 1)
    assert any('ldap://127.0.0.1' in event.get('filter', '') for event in opened), opened
    assert server.metric('holdfast_breaker_open') >= 1
    code, out, err = server.run('status')
    assert 'ldap://127.0.0.1' in out, (code, out, err)


# ------------------------------------------------------------------ what it answers

def alias_followed(server):
    before = {name: len(server.mails(name, 'home.example')) for name in ('alice', 'bob')}
    got, _ = Mail(to='team@home.example').play(server)
    assert got.code == 250, got.lines
    for name, count in before.items():
        server.wait_mails(name, count + 1, 'home.example')


def tagged(server):
    before = len(server.mails('bob', 'home.example'))
    got, _ = Mail(to='Bob+Tag@HOME.example').play(server)
    assert got.code == 250, got.lines
    server.wait_mails('bob', before + 1, 'home.example')


INJECTIONS = ('"*"', 'al*', '"alice@home.example)(mail=*"', '"*)(objectClass=*"', '"alice)(cn=*"', '"x\\\\2a"', '"x\\\\"', '"a)(|(mail=*"',
              "o'brien", '"a b"', '"(&"', '{address}', '{local}', 'alice%00', '"\\*"')


def injections(server):
    for local in INJECTIONS:
        refused(server, Mail(to=f'{local}@home.example'))
    got, stage = Mail(to='"a\0b"@home.example').play(server)
    assert got.code // 100 == 5 and stage == 'rcpt', got.lines
    expect_accepted(server, Mail())


def expands(server):
    code, out, _ = server.run('alias', 'expand', 'team@home.example')
    assert code == 0 and sorted(out.split()) == ['alice@home.example', 'bob@home.example'], (code, out)
    code, out, err = server.run('alias', 'expand', 'nobody@home.example')
    assert code == 1 and 'no such' in (out + err), (code, out, err)


# ------------------------------------------------------------------ faults

def stopped(server, slapd):
    slapd.stop()
    unavailable(server, UNKNOWN, "can't contact")
    unavailable(server, Mail(), "can't contact")
    breaker_opened(server)
    slapd.start()
    healed(server)


def killed_and_back_between(server, slapd):
    """Idle connections that died meanwhile are replaced without a word."""
    slapd.stop(signal.SIGKILL)
    slapd.start()
    expect_accepted(server, Mail())
    refused(server)


def frozen(server, slapd):
    slapd.freeze()
    unavailable(server, UNKNOWN, '')
    unavailable(server, Mail(), '')
    slapd.thaw()
    healed(server)


def under_load(server, slapd):
    load = Load(server)
    try:
        load.wait('mail under load', 'known', 2)
        load.wait('refusals under load', 'unknown', 5)
        slapd.stop(signal.SIGKILL)
        load.wait('deferrals while it is dead', 'unknown', 4)
        slapd.start()
        load.wait('mail after it came back', 'known', 2)
        load.wait('refusals after it came back', 'unknown', 5)
        slapd.freeze()
        load.wait('deferrals while it is frozen', 'known', 4)
        slapd.thaw()
        load.wait('mail after it was thawed', 'known', 2)
        load.wait('refusals after it was thawed', 'unknown', 5)
    finally:
        load.end()
    healed(server)


def base_checks(checks, slapd):
    with FaultServer('directory { timeout = 2s }', users=users(slapd), aliases=aliases(slapd)) as server:
        checks.run('ldap: a user is taken', lambda: expect_accepted(server, Mail()))
        checks.run('ldap: nobody is refused', lambda: refused(server))
        checks.run('ldap: an alias is followed', lambda: alias_followed(server))
        checks.run('ldap: a tag is set aside', lambda: tagged(server))
        checks.run('ldap: alias expand', lambda: expands(server))
        checks.run('ldap: an alias that names a command', lambda: misconfigured(server, Mail(to='pipe@home.example'), 'only a file'))
        checks.run('ldap: an alias without values', lambda: misconfigured(server, Mail(to='empty@home.example'), 'rfc822MailMember'))
        checks.run('ldap: injections find nobody', lambda: injections(server))
        checks.run('ldap: killed and back', lambda: killed_and_back_between(server, slapd))
        checks.run('ldap: stopped, and back', lambda: stopped(server, slapd))
        checks.run('ldap: frozen, and back', lambda: frozen(server, slapd))
        checks.run('ldap: killed and frozen under 200 sessions', lambda: under_load(server, slapd))
        checks.ok('the server is still there', server.alive())


# ------------------------------------------------------------------ settings that do not fit

def credentials(server):
    misconfigured(server, Mail(to='a@bound.example'), 'Invalid credentials')
    misconfigured(server, UNKNOWN_BOUND, 'Invalid credentials')
    write_file(server, 'password', 'right\n')
    wait_until('the right password to be used', lambda: Mail(to='nobody@bound.example').play(server)[0].code == 550)
    refused(server, UNKNOWN_BOUND)


UNKNOWN_BOUND = Mail(to='nobody@bound.example')


def settings(checks, slapd):
    bind = '????bindname=cn=holdfast%2cdc=home%2cdc=example,x-password-file={folder}/'
    blind = '????bindname=cn=blind%2cdc=home%2cdc=example,x-password-file={folder}/fine'
    text = ('directory { timeout = 2s }\n'
            + domain('bound.example', users(slapd, bind + 'password'))
            + domain('nofile.example', users(slapd, bind + 'absent'))
            + domain('blind.example', users(slapd, blind))
            + domain('limited.example', users(slapd, '??sub?(|(mail={address})(title=same))' + bind[3:] + 'fine', base='ou=many,' + BASE))
            + domain('referral.example', users(slapd, base='ou=elsewhere,' + BASE))
            + domain('moved.example', users(slapd, base='ou=there,ou=elsewhere,' + BASE))
            + domain('attribute.example', users(slapd, '?mail?sub?(mailbox={address})'))
            + domain('base.example', users(slapd, base='ou=nowhere,' + BASE)))
    server = FaultServer(text, users=users(slapd), start=False)
    write_file(server, 'password', 'wrong\n')
    write_file(server, 'fine', 'right\n')
    with server:
        server.start()
        checks.run('ldap: bad credentials, then good ones', lambda: credentials(server))
        checks.run('ldap: no password file', lambda: misconfigured(server, Mail(to='a@nofile.example'), 'No such file'))
        checks.run('ldap: an account that may not read', lambda: misconfigured(server, Mail(to='a@blind.example'), 'may read'))
        checks.run('ldap: size limit', lambda: unavailable(server, Mail(to='a@limited.example'), 'Size limit'))
        checks.run('ldap: a continuation reference', lambda: unavailable(server, Mail(to='a@referral.example'), 'Referral'))
        checks.run('ldap: a referral', lambda: unavailable(server, Mail(to='a@moved.example'), 'Referral'))
        checks.run('ldap: an attribute that nobody has', lambda: misconfigured(server, Mail(to='a@attribute.example'), 'mailbox'))
        checks.run('ldap: a base that is not there', lambda: misconfigured(server, Mail(to='a@base.example'), 'No such object'))
        checks.run('ldap: the healthy domain beside them', lambda: expect_accepted(server, Mail()))


# ------------------------------------------------------------------ TLS

def accepts(server, mail):
    got, _ = mail.play(server)
    assert got.code == 250, got.lines


def tls(checks, slapd):
    if not slapd.certificate:
        checks.skip('ldap over TLS', 'openssl is not installed')
        return
    other, _ = tls_certificate(slapd.folder, 'other')
    filt = '??sub?(cn={local})?'
    ca, wrong = 'x-ca-file=' + slapd.certificate, 'x-ca-file=' + other
    text = ('directory { timeout = 3s }\n'
            + domain('start.example', users(slapd, filt + 'StartTLS,' + ca))
            + domain('startbad.example', users(slapd, filt + 'StartTLS,' + wrong))
            + domain('tls.example', users(slapd, filt + ca, scheme='ldaps', port=slapd.tls_port))
            + domain('tlsbad.example', users(slapd, filt + wrong, scheme='ldaps', port=slapd.tls_port)))
    with FaultServer(text) as server:
        checks.run('ldap: StartTLS', lambda: accepts(server, Mail(to='alice@start.example')))
        checks.run('ldap: StartTLS, nobody', lambda: refused(server, Mail(to='nobody@start.example')))
        checks.run('ldap: StartTLS with another CA', lambda: unavailable(server, Mail(to='alice@startbad.example'), 'StartTLS'))
        checks.run('ldaps', lambda: accepts(server, Mail(to='alice@tls.example')))
        checks.run('ldaps: nobody', lambda: refused(server, Mail(to='nobody@tls.example')))
        checks.run('ldaps with another CA', lambda: unavailable(server, Mail(to='nobody@tlsbad.example'), "can't contact"))


def no_tls(checks):
    with Slapd(LDIF, SETTINGS, tls=False) as slapd:
        with FaultServer('directory { timeout = 2s }', users=users(slapd, '????StartTLS')) as server:
            checks.run('ldap: StartTLS that the server has not', lambda: unavailable(server, Mail(), 'StartTLS'))


# ------------------------------------------------------------------ last known answers

def stands_in(server, slapd):
    expect_accepted(server, Mail())
    slapd.stop()
    expect_accepted(server, Mail())
    unavailable(server, UNKNOWN, '')
    unavailable(server, Mail(to='bob@home.example'), '')
    assert server.metric('holdfast_directory_stale_total') >= 1
    slapd.start()
    healed(server)
    expect_accepted(server, Mail(to='bob@home.example'))


def stale(checks, slapd):
    with FaultServer('directory { timeout = 2s  stale_positive = 1h }', users=users(slapd), aliases=aliases(slapd)) as server:
        checks.run('ldap: what was known stands in while it is down', lambda: stands_in(server, slapd))


def refused_at_start(checks):
    for name, source in (('no base', 'ldap://127.0.0.1:1/'), ('bad filter', f'ldap://127.0.0.1:1/{BASE}??sub?(mail=*)'),
                         ('bad extension', f'ldap://127.0.0.1:1/{BASE}????x-what=1'), ('two filters', f'ldap://127.0.0.1:1/{BASE}??sub?(a={{local}})(b=1)')):
        def starts(source=source):
            server = FaultServer(users=source, start=False)
            with server:
                try:
                    server.start()
                except AssertionError as fault:
                    assert 'users = ' in str(fault), fault
                    return
                raise AssertionError('it started')
        checks.run(f'ldap: refused at start: {name}', starts)


def main():
    checks = Checks()
    if not skip_without(checks, 'slapd', SLAPD):
        with Slapd(LDIF, SETTINGS) as slapd:
            base_checks(checks, slapd)
            settings(checks, slapd)
            tls(checks, slapd)
            stale(checks, slapd)
        no_tls(checks)
    refused_at_start(checks)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
