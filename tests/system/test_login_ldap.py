#!/usr/bin/env python3
"""Logging in as a user of LDAP, with a real slapd: the password is checked by a bind as the user. 235 when the server said
yes, 535 only when it said no, 454 while it cannot say; and a bind as a user never changes what look-ups may see."""
import os
import signal
import threading

from lib import Checks, Client, Server, wait_until
from lib_directory import SLAPD, Slapd, skip_without
from test_submission import b64, expect, plain

BASE = Slapd.SUFFIX
PEOPLE = 'ou=people,' + BASE


def person(name, more=''):
    return f'dn: cn={name},{PEOPLE}\nobjectClass: inetOrgPerson\ncn: {name}\nsn: {name}\nmail: {name}@home.example\n{more}\n'


LDIF = (f'dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Home\ndc: home\n\n'
        f'dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n'
        + person('alice', 'userPassword: secretpassword\n') + person('bob', 'userPassword: other\n') + person('mute')
        + f'dn: cn=holdfast,{BASE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: holdfast\nuserPassword: right\n\n')
# Users may not read anything, only Holdfast's own account may: a connection that a user was bound on would find nobody.
SETTINGS = (f'access to attrs=userPassword by anonymous auth by * none\n'
            f'access to * by dn.exact="cn=holdfast,{BASE}" read by * none\n')
TEXT = """
hostname = "mx.home.example"
spool = "{folder}/spool"
listen smtp { address = "127.0.0.1:0" }
listen submission { address = "127.0.0.1:0"  kind = submission }
auth { delay = 0  without_tls = yes  scram = yes }
directory { timeout = 2s  connections = 1 }
domain "home.example" { users = "ldap://127.0.0.1:PORT/PEOPLE????bindname=cn=holdfast%2cdc=home%2cdc=example,x-password-file={folder}/password"
    deliver = "maildir:{folder}/mail/{domain}/{user}" }
limits { client_failures = 0 }
log { format = json  level = info }
"""


class House:
    def __init__(self, slapd):
        self.slapd = slapd
        self.server = Server(text=TEXT.replace('PORT', str(slapd.port)).replace('PEOPLE', PEOPLE), start=False)
        with open(os.path.join(self.server.folder, 'password'), 'w') as file:
            file.write('right\n')

    def client(self):
        client = Client(self.server.address('submission'))
        expect(client.command('EHLO c.test'), 250)
        return client

    def login(self, user, password, code, text=''):
        with self.client() as client:
            return expect(client.command('AUTH PLAIN ' + plain(user, password)), code, text)

    def rcpt(self, to):
        with Client(self.server.address('smtp')) as client:
            for line in ('EHLO c.test', 'MAIL FROM:<a@[127.0.0.1]>'):
                expect(client.command(line), 250)
            return client.command(f'RCPT TO:<{to}>').code

    def back(self):
        wait_until('logins to work again', lambda: self.works('alice', 'secretpassword'))
        wait_until('look-ups to work again', lambda: self.rcpt('nobody@home.example') == 550)

    def works(self, user, password):
        with self.client() as client:
            reply = client.command('AUTH PLAIN ' + plain(user, password))
            assert reply.code in (235, 454), reply.lines
            return reply.code == 235


CASES = {}


def case(function):
    CASES['ldap: ' + function.__name__.replace('_', ' ')] = function
    return function


@case
def the_right_password(house):
    house.login('alice', 'secretpassword', 235, '2.7.0')
    house.login('ALICE@home.example', 'secretpassword', 235)
    with house.client() as client:
        expect(client.command('AUTH LOGIN ' + b64('alice+tag@home.example')), 334)
        expect(client.command(b64('secretpassword')), 235)
        expect(client.command('MAIL FROM:<alice@home.example>'), 250)
        expect(client.command('RCPT TO:<x@elsewhere.example>'), 250)
        expect(client.command('RSET'), 250)
        expect(client.command('MAIL FROM:<bob@home.example>'), 553, 'sender.not_owned')


@case
def a_wrong_one(house):
    house.login('alice', 'other', 535, '5.7.8')
    house.login('bob', 'secretpassword', 535)
    house.login('nobody', 'secretpassword', 535)
    house.login('mute', 'secretpassword', 535)           # an entry without a password
    house.login('alice', 'x' * 500, 535)


@case
def an_empty_one_is_no_anonymous_bind(house):
    with house.client() as client:
        expect(client.command('AUTH LOGIN ' + b64('alice')), 334)
        expect(client.command(''), 535)


@case
def names_that_would_be_filters(house):
    for name in ('*', 'al*', 'alice)(mail=*', '*)(objectClass=*', 'alice\\2a'):
        house.login(name, 'secretpassword', 535)


@case
def scram_is_not_possible(house):
    with house.client() as client:
        expect(client.command('AUTH SCRAM-SHA-256 ' + b64('n,,n=alice@home.example,r=x')), 504, 'auth.mechanism')
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 235)


@case
def look_ups_see_what_they_saw(house):
    """With one connection a bind as a user on it would leave a look-up that finds nobody: a 550 for everybody."""
    for _ in range(5):
        house.login('alice', 'secretpassword', 235)
        assert house.rcpt('bob@home.example') == 250
        house.login('alice', 'wrong', 535)
        assert house.rcpt('bob@home.example') == 250 and house.rcpt('nobody@home.example') == 550


@case
def many_at_once(house):
    wrong = []

    def one(number):
        user, password, code = (('alice', 'secretpassword', 235), ('bob', 'other', 235), ('alice', 'no', 535))[number % 3]
        try:
            house.login(user, password, code)
        except (AssertionError, OSError) as fault:
            wrong.append(repr(fault))
    threads = [threading.Thread(target=one, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]


@case
def stopped_and_back(house):
    house.slapd.stop()
    house.login('alice', 'secretpassword', 454, '4.7.0')
    house.login('alice', 'wrong', 454)
    house.login('nobody', 'wrong', 454)
    code, out, err = house.server.run('status')
    assert f'ldap://127.0.0.1:{house.slapd.port} users' in out, (code, out, err)
    house.slapd.start()
    house.back()


@case
def frozen_and_back(house):
    house.login('alice', 'secretpassword', 235)
    house.slapd.freeze()
    house.login('alice', 'secretpassword', 454, '4.7.0')
    house.login('alice', 'wrong', 454)
    house.slapd.thaw()
    house.back()


@case
def killed_between(house):
    house.slapd.stop(signal.SIGKILL)
    house.slapd.start()
    house.login('alice', 'secretpassword', 235)
    house.login('alice', 'wrong', 535)


@case
def no_password_in_the_journal(house):
    assert not any('secretpassword' in line or b64('secretpassword') in line for line in house.server.lines)


def main():
    checks = Checks()
    if skip_without(checks, 'slapd', SLAPD):
        return checks.done()
    with Slapd(LDIF, SETTINGS) as slapd:
        house = House(slapd)
        with house.server:
            house.server.start()
            for name, test in CASES.items():
                checks.run(name, lambda test=test: test(house))
            checks.ok('ldap: the server is still there', house.server.alive())
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
