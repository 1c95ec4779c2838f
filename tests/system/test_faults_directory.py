#!/usr/bin/env python3
"""The directory's fault domain: users in a file, users in SQLite, aliases. An unknown user is refused only while the
directory answers; locked, missing or damaged, it defers, with its own words in the journal."""
import os
import sqlite3

from lib import Checks, wait_until
from lib_faults import FaultServer, Mail, expect, expect_accepted, expect_healed, write_file

UNKNOWN = Mail(to='nobody@home.example')


def misconfigured(server, mail, words):
    event = expect(server, mail, '451 4.3.5', 'directory.misconfigured', 'rcpt')
    assert words in event.get('text', ''), f'the journal does not say {words!r}: {event}'


def unavailable(server, mail, words):
    event = expect(server, mail, '451 4.3.0', 'directory.unavailable', 'rcpt')
    assert words in event.get('text', ''), f'the journal does not say {words!r}: {event}'


def refused(server):
    expect(server, UNKNOWN, '550 5.1.1', 'recipient.unknown', 'rcpt')


def becomes(server, mail, reply):
    """Files are looked at once a second: asks until the reply is the one that is due."""
    wait_until(f'{reply}', lambda: mail.play(server)[0].lines[-1].startswith(reply))


# ------------------------------------------------------------------ files

def file_missing(server):
    path = os.path.join(server.folder, 'users')
    os.rename(path, path + '.away')
    becomes(server, UNKNOWN, '451 4.3.5')
    misconfigured(server, UNKNOWN, 'users: No such file')
    misconfigured(server, Mail(), 'users: No such file')
    os.rename(path + '.away', path)
    becomes(server, UNKNOWN, '550 5.1.1')
    expect_accepted(server, Mail())


def file_malformed(server):
    write_file(server, 'users', 'alice\nbob\nbad line\n')
    becomes(server, UNKNOWN, '451 4.3.5')
    misconfigured(server, Mail(), 'users:3: ')
    write_file(server, 'users', 'alice\nbob\ndora:disabled=yes\n')
    becomes(server, UNKNOWN, '550 5.1.1')


def file_grows(server):
    write_file(server, 'users', 'alice\nbob\ndora:disabled=yes\nemil\n')
    expect_healed_or_unknown(server, Mail(to='emil@home.example'))


def expect_healed_or_unknown(server, mail):
    """A new user is known within a second; until then "unknown" is the file's honest answer."""
    wait_until('the new user', lambda: mail.play(server)[0].code == 250)


def aliases_missing(server):
    path = os.path.join(server.folder, 'aliases')
    os.rename(path, path + '.away')
    becomes(server, Mail(), '451 4.3.5')
    misconfigured(server, Mail(), 'aliases: No such file')
    misconfigured(server, UNKNOWN, 'aliases: No such file')
    os.rename(path + '.away', path)
    becomes(server, UNKNOWN, '550 5.1.1')


def alias_followed(server):
    before = len(server.mails('bob', 'home.example'))
    got, _ = Mail(to='team@home.example').play(server)
    assert got.code == 250, got.lines
    server.wait_mails('bob', before + 1, 'home.example')


def files(checks):
    server = FaultServer(aliases='file:{folder}/aliases', start=False)
    write_file(server, 'users', 'alice\nbob\n')
    write_file(server, 'aliases', '# ours\nteam: alice,\n    bob\nloop: ring\nring: loop\n')
    with server:
        server.start()
        checks.run('file: a user is taken', lambda: expect_accepted(server, Mail()))
        checks.run('file: nobody is refused', lambda: refused(server))
        checks.run('file: an alias is followed', lambda: alias_followed(server))
        checks.run('file: an alias that leads to itself', lambda: misconfigured(server, Mail(to='loop@home.example'), 'leads to itself'))
        checks.run('file: another domain', lambda: expect(server, Mail(to='a@far.example'), '550 5.7.1', 'relay.denied', 'rcpt'))
        checks.run('file: missing, and back', lambda: file_missing(server))
        checks.run('file: a malformed line', lambda: file_malformed(server))
        checks.run('file: a disabled user', lambda: expect(server, Mail(to='dora@home.example'), '450 4.2.1', 'recipient.disabled', 'rcpt'))
        checks.run('file: a new user', lambda: file_grows(server))
        checks.run('file: aliases missing, and back', lambda: aliases_missing(server))


# ------------------------------------------------------------------ SQLite

def make_database(path):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute('CREATE TABLE users(address TEXT PRIMARY KEY, password TEXT)')
    database.execute("INSERT INTO users VALUES('alice@home.example', '')")
    return database


def sqlite_locked(server, database):
    database.execute('BEGIN EXCLUSIVE')
    unavailable(server, Mail(), 'database is locked')
    unavailable(server, UNKNOWN, 'database is locked')
    database.execute('COMMIT')
    expect_accepted(server, Mail())
    refused(server)


def sqlite_missing(server, path):
    os.rename(path, path + '.away')
    misconfigured(server, Mail(), 'unable to open')
    misconfigured(server, UNKNOWN, 'unable to open')
    os.rename(path + '.away', path)
    expect_accepted(server, Mail())
    refused(server)


def sqlite_no_table(server, database):
    database.execute('ALTER TABLE users RENAME TO people')
    misconfigured(server, UNKNOWN, 'no such table')
    database.execute('ALTER TABLE people RENAME TO users')
    refused(server)


def sqlite_damaged(server, path):
    os.rename(path, path + '.away')
    with open(path, 'wb') as file:
        file.write(b'this was a database once; now it is something else\n' * 100)
    unavailable(server, UNKNOWN, 'not a database')
    os.rename(path + '.away', path)
    expect_healed(server, Mail())
    refused(server)


def sqlite(checks):
    server = FaultServer(users='sqlite:{folder}/users.db?table=users', start=False)
    path = os.path.join(server.folder, 'users.db')
    database = make_database(path)
    with server:
        server.start()
        checks.run('sqlite: a user is taken', lambda: expect_accepted(server, Mail()))
        checks.run('sqlite: nobody is refused', lambda: refused(server))
        checks.run('sqlite: locked, and free again', lambda: sqlite_locked(server, database))
        checks.run('sqlite: missing, and back', lambda: sqlite_missing(server, path))
        checks.run('sqlite: no such table', lambda: sqlite_no_table(server, database))
        checks.run('sqlite: damaged, and restored', lambda: sqlite_damaged(server, path))
        checks.ok('the server is still there', server.alive())
    database.close()


def main():
    checks = Checks()
    files(checks)
    sqlite(checks)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
