#!/usr/bin/env python3
"""Directories on other machines, and a users file, break while at least 200 messages are in the middle: a real slapd and a
real PostgreSQL, stopped, SIGSTOPped, locked and killed with questions of 200 sessions open. Every message is accepted, or told
451 with its cause until it is; nobody is refused; `why --in` agrees with the clients' own log; each is delivered once.

HOLDFAST_FULL=1 runs it with 600 messages a fault instead of 220."""
import os
import signal
import stat
import subprocess

from lib import Checks, wait_until
from lib_directory import SLAPD, Postgres, Slapd, postgres_program, skip_without
from lib_faults import FaultServer, Mail, write_file
from lib_load import Crowd, Gate, expect_account, expect_delivered_once, expect_fates
from test_under_load import AGAIN, LEAST, letters_for, told, user_names

checks = Checks()
UNAVAILABLE = {('directory.unavailable', 451)}
BASE = Slapd.SUFFIX


class House:
    """A server with one source of users, and all letters that were sent to it."""

    def __init__(self, name, server):
        self.name, self.server, self.letters = name, server, []

    def round(self, what, strike, heal, faults=frozenset(UNAVAILABLE), hang=None):
        """All clients have said MAIL. Without `hang` the fault strikes before they say RCPT; with it the source first
        hangs, until the RCPTs of 200 sessions are out and unanswered, and then the fault strikes."""
        checks.run(f'{self.name}: {what}', lambda: self._round(what, strike, heal, set(faults), hang))

    def _round(self, what, strike, heal, faults, hang):
        letters = letters_for(220 if not os.environ.get('HOLDFAST_FULL') else 600)
        self.letters.extend(letters)
        gate = Gate()
        with Crowd(self.server.address(), letters, rcpt_gate=gate, patience_s=120) as crowd:
            gate.wait_all(LEAST, 60)
            (hang or strike)()
            gate.open()
            if hang:
                wait_until('200 unanswered RCPTs', lambda: sum(1 for _, stage in list(crowd.awaiting) if stage == 'rcpt') >= LEAST)
                print(f'# {what}: {sum(1 for _, stage in list(crowd.awaiting) if stage == "rcpt")} RCPTs were out', flush=True)
                strike()
            crowd.wait_answered(LEAST)
            heal()
            crowd.heal()
            crowd.wait()
        told(what, letters)
        expect_fates(letters, faults)
        assert sum(1 for letter in letters if letter.log[0].code == 451) >= LEAST, 'the fault struck too few'
        wait_until('the breakers to close', lambda: self.server.metric('holdfast_breaker_open') == 0)

    def end(self):
        checks.run(f'{self.name}: each accepted message is delivered once', lambda: expect_delivered_once(self.server, self.letters))
        checks.run(f'{self.name}: `why --in` agrees with the clients', lambda: print('# the account:', expect_account(self.server, self.letters)))


def slapd_under_load():
    if skip_without(checks, 'slapd', SLAPD):
        return
    ldif = f'dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Home\ndc: home\n\n' + ''.join(
        f'dn: cn={name},{BASE}\nobjectClass: inetOrgPerson\ncn: {name}\nsn: {name}\nmail: {name}@home.example\n\n' for name in user_names())
    with Slapd(ldif, tls=False) as slapd:
        with FaultServer('directory { timeout = 3s }\n' + AGAIN, users=f'ldap://127.0.0.1:{slapd.port}/{BASE}') as server:
            house = House('LDAP', server)
            house.round('stopped under 200 messages', slapd.stop, slapd.start)
            house.round('SIGSTOPped under 200 messages', slapd.freeze, slapd.thaw)
            house.round('killed with 200 questions open', lambda: slapd.stop(signal.SIGKILL), slapd.start, hang=slapd.freeze)
            house.end()


class Lock:
    """Another session holds the table, as a migration would."""

    def __init__(self, database):
        self.database, self.session = database, None

    def take(self):
        self.session = subprocess.Popen(self.database.psql('')[:-2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.session.stdin.write('BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; SELECT 1;\n')
        self.session.stdin.flush()
        assert self.session.stdout.readline() == '1\n'

    def drop(self):
        self.session.stdin.close()
        self.session.wait(30)
        self.session.stdout.close()


def postgresql_under_load():
    if skip_without(checks, 'PostgreSQL', postgres_program('postgres'), postgres_program('initdb')):
        return
    values = ', '.join(f"('{name}@home.example')" for name in user_names())
    with Postgres(f'CREATE TABLE users(address text PRIMARY KEY); INSERT INTO users VALUES {values}') as database:
        with FaultServer('directory { timeout = 3s }\n' + AGAIN, users=database.uri('?table=users')) as server:
            house, lock = House('PostgreSQL', server), Lock(database)

            def thaw_and_start():
                database.thaw()
                database.start()
            house.round('stopped under 200 messages', lambda: database.stop(signal.SIGINT), database.start)
            house.round('SIGSTOPped under 200 messages', database.freeze, database.thaw)
            house.round('the table locked under 200 messages', lock.take, lock.drop)

            def kill():
                database.process.kill()
                database.process.wait()
            house.round('killed with 200 questions open', kill, restart_after_kill(database, lock), hang=lock.take)
            house.end()


def restart_after_kill(database, lock):
    """The server's children notice the death of their parent; only then a new one starts."""
    def restart():
        lock.drop()

        def starts():
            try:
                database.start()
            except AssertionError:
                return False
            return database.process.poll() is None
        wait_until('PostgreSQL to start again', starts)
    return restart


def file_under_load():
    """As root nobody is kept from reading, so there a folder takes the file's place."""
    server = FaultServer(AGAIN, start=False)
    path = os.path.join(server.folder, 'users')
    write_file(server, 'users', '\n'.join(user_names()) + '\n')

    def noticed():
        wait_until('the server to notice', lambda: Mail(to='alice@home.example').play(server)[0].code == 451)

    def unreadable():
        if os.geteuid() == 0:
            os.rename(path, path + '.away')
            os.mkdir(path)
        else:
            os.chmod(path, 0)
        noticed()

    def readable():
        if os.path.isdir(path):
            os.rmdir(path)
            os.rename(path + '.away', path)
        else:
            os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)

    def malformed():
        write_file(server, 'users', '\n'.join([*user_names(), 'half a line']) + '\n')
        noticed()
    with server:
        server.start()
        house = House('file', server)
        house.round('unreadable under 200 messages', unreadable, readable, {('directory.unavailable', 451)})
        house.round('malformed under 200 messages', malformed,
                    lambda: write_file(server, 'users', '\n'.join(user_names()) + '\n'), {('directory.misconfigured', 451)})


def main():
    slapd_under_load()
    postgresql_under_load()
    file_under_load()
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
