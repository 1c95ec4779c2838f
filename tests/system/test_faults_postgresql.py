#!/usr/bin/env python3
"""The directory's fault domain over PostgreSQL, with a real server: only an empty result refuses. Stopped, frozen, locked,
killed in the middle of a query, without the table: it defers, with the server's words in the journal, and heals by itself."""
import signal
import subprocess
import threading

from lib import Checks, wait_until
from lib_directory import Load, Postgres, postgres_program, skip_without
from lib_faults import FaultServer, Mail, expect, expect_accepted, expect_healed

UNKNOWN = Mail(to='nobody@home.example')
TABLES = """CREATE TABLE users(address text PRIMARY KEY, password text, disabled boolean NOT NULL DEFAULT false);
INSERT INTO users VALUES ('alice@home.example', '', false), ('Bob@home.example', '', false), ('dora@home.example', '', true);
CREATE TABLE aliases(address text, target text);
INSERT INTO aliases VALUES ('team@home.example', 'alice'), ('team@home.example', 'bob@home.example'), ('pipe@home.example', '/bin/true');
CREATE ROLE stranger LOGIN PASSWORD 'secret';"""


def domain(name, source):
    return f'domain "{name}" {{ users = "{source}"  deliver = "maildir:{{folder}}/mail/{{domain}}/{{user}}" }}\n'


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


def taken(server, to, users):
    before = {name: len(server.mails(name, 'home.example')) for name in users}
    got, _ = Mail(to=to).play(server)
    assert got.code == 250, got.lines
    for name, count in before.items():
        server.wait_mails(name, count + 1, 'home.example')


INJECTIONS = ("'; DROP TABLE users; --", "' OR '1'='1", 'x" OR "1"="1', 'x\\\\', '%', '_____', '$1', ':address', "a'b", 'a)b(c', '\\\\x00')


def injections(server, database):
    for local in INJECTIONS:
        quoted = local.replace('"', '\\"')
        refused(server, Mail(to=f'"{quoted}"@home.example'))
    got, stage = Mail(to='"a\0b"@home.example').play(server)
    assert got.code // 100 == 5 and stage == 'rcpt', got.lines
    assert database.sql('SELECT count(*) FROM users') == '3'
    expect_accepted(server, Mail())


def stopped(server, database):
    database.stop(signal.SIGINT)
    unavailable(server, UNKNOWN, '')
    unavailable(server, Mail(), '')
    opened = server.wait_events('breaker.open', 1)
    assert any('postgresql://127.0.0.1' in event.get('filter', '') for event in opened), opened
    database.start()
    healed(server)


def killed_between(server, database):
    database.stop(signal.SIGINT)
    database.start()
    expect_accepted(server, Mail())
    refused(server)


def frozen(server, database):
    database.freeze()
    unavailable(server, UNKNOWN, 'in time')
    unavailable(server, Mail(), 'in time')
    database.thaw()
    healed(server)


class Lock:
    """ACCESS EXCLUSIVE on users, until the end of the block."""

    def __init__(self, database):
        self.process = subprocess.Popen(database.psql('')[:-2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdin.write("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; SELECT 'held';\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == 'held'

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def locked(server, database):
    with Lock(database):
        unavailable(server, Mail(), 'statement timeout')
        unavailable(server, UNKNOWN, 'statement timeout')
    expect_accepted(server, Mail())
    refused(server)


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast' AND wait_event_type = 'Lock'"


def killed_within(server, database):
    """The backend dies while our query waits in it, twice: the question is put once more, then it is a fault."""
    with Lock(database):
        got = []
        asking = threading.Thread(target=lambda: got.append(Mail().play(server)), daemon=True)
        asking.start()
        for _ in range(2):
            wait_until('our query to wait', lambda: got or database.sql(WAITING) != '0')
            database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast' AND wait_event_type = 'Lock'")
        asking.join(60)
        assert got and got[0][0].code == 451 and 'directory.unavailable' in got[0][0].lines[-1], got
    healed(server)


def no_table(server, database):
    database.sql('ALTER TABLE users RENAME TO people')
    misconfigured(server, UNKNOWN, 'does not exist')
    misconfigured(server, Mail(), 'does not exist')
    database.sql('ALTER TABLE people RENAME TO users')
    refused(server)
    expect_accepted(server, Mail())


def under_load(server, database):
    load = Load(server)
    try:
        load.wait('mail under load', 'known', 2)
        load.wait('refusals under load', 'unknown', 5)
        database.stop(signal.SIGQUIT)
        load.wait('deferrals while it is dead', 'unknown', 4)
        database.start()
        load.wait('mail after it came back', 'known', 2)
        load.wait('refusals after it came back', 'unknown', 5)
        database.freeze()
        load.wait('deferrals while it is frozen', 'known', 4)
        database.thaw()
        load.wait('mail after it was thawed', 'known', 2)
        load.wait('refusals after it was thawed', 'unknown', 5)
    finally:
        load.end()
    healed(server)


def base_checks(checks, database):
    with FaultServer('directory { timeout = 2s }', users=database.uri('?table=users'), aliases=database.uri('?table=aliases')) as server:
        checks.run('postgresql: a user is taken', lambda: expect_accepted(server, Mail()))
        checks.run('postgresql: nobody is refused', lambda: refused(server))
        checks.run('postgresql: capitals and a tag', lambda: taken(server, 'bOB+Tag@HOME.example', ('Bob',)))
        checks.run('postgresql: an alias is followed', lambda: taken(server, 'team@home.example', ('alice', 'Bob')))
        checks.run('postgresql: a disabled user', lambda: expect(server, Mail(to='dora@home.example'), '450 4.2.1', 'recipient.disabled', 'rcpt'))
        checks.run('postgresql: an alias that names a file', lambda: misconfigured(server, Mail(to='pipe@home.example'), 'only a file'))
        checks.run('postgresql: injections find nobody', lambda: injections(server, database))
        checks.run('postgresql: restarted', lambda: killed_between(server, database))
        checks.run('postgresql: stopped, and back', lambda: stopped(server, database))
        checks.run('postgresql: frozen, and back', lambda: frozen(server, database))
        checks.run('postgresql: a locked table', lambda: locked(server, database))
        checks.run('postgresql: killed within the query', lambda: killed_within(server, database))
        checks.run('postgresql: no such table', lambda: no_table(server, database))
        checks.run('postgresql: killed and frozen under 200 sessions', lambda: under_load(server, database))
        checks.ok('the server is still there', server.alive())


def settings(checks, database):
    uri = database.uri
    query = '?query=SELECT address FROM users WHERE lower(address) = :address AND :domain::text <> \'\' LIMIT 1'
    text = ('directory { timeout = 2s }\n' + domain('wrong.example', uri('?table=users', password='wrong'))
            + domain('nobase.example', uri('?table=users', database='nowhere'))
            + domain('stranger.example', uri('?table=users').replace('//holdfast:', '//stranger:'))
            + domain('column.example', uri('?query=SELECT mailbox FROM users WHERE mailbox = :address'))
            + domain('syntax.example', uri('?query=SELECT FROM WHERE :address'))
            + domain('target.example', uri('?table=users')))
    with FaultServer(text, users=uri(query)) as server:
        checks.run('postgresql: a query of our own', lambda: expect_accepted(server, Mail()))
        checks.run('postgresql: a query of our own, nobody', lambda: refused(server))
        checks.run('postgresql: bad credentials', lambda: misconfigured(server, Mail(to='a@wrong.example'), '28P01'))
        checks.run('postgresql: no such database', lambda: misconfigured(server, Mail(to='a@nobase.example'), '3D000'))
        checks.run('postgresql: no permission', lambda: misconfigured(server, Mail(to='a@stranger.example'), 'permission denied'))
        checks.run('postgresql: no such column', lambda: misconfigured(server, Mail(to='a@column.example'), 'does not exist'))
        checks.run('postgresql: bad SQL', lambda: misconfigured(server, Mail(to='a@syntax.example'), 'syntax error'))


def stands_in(server, database):
    expect_accepted(server, Mail())
    database.stop(signal.SIGINT)
    expect_accepted(server, Mail())
    unavailable(server, UNKNOWN, '')
    assert server.metric('holdfast_directory_stale_total') >= 1
    database.start()
    healed(server)


def stale(checks, database):
    with FaultServer('directory { timeout = 2s  stale_positive = 1h }', users=database.uri('?table=users')) as server:
        checks.run('postgresql: what was known stands in while it is down', lambda: stands_in(server, database))


def main():
    checks = Checks()
    if not skip_without(checks, 'postgresql', postgres_program('initdb'), postgres_program('postgres'), postgres_program('psql')):
        with Postgres(TABLES) as database:
            base_checks(checks, database)
            settings(checks, database)
            stale(checks, database)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
