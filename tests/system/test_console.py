#!/usr/bin/env python3
"""What an operator types and scrapes: status, queue, why, the actions on queued mail, metrics, health, config check,
spool rebuild, and the exit codes of all of them."""
import json
import os
import re
import subprocess
import urllib.error
import urllib.request

from lib import HOLDFAST, Checks, wait_until
from lib_faults import FaultServer, Mail, free_port
from lib_hop import NextHop

checks = Checks()


def far(port):
    return (f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{port}" }}\n'
            'retry { schedule = {1h}  warn_after = 2h  expire_after = 5d  jitter = 0 }')


def run(server, *words):
    done = subprocess.run([HOLDFAST, *words, '-c', server.config], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def ask(server, *words):
    code, out, error = run(server, *words, '--json')
    assert code == 0, (code, out, error)
    return json.loads(out)


def page(server, path):
    try:
        with urllib.request.urlopen(f'http://127.0.0.1:{server.web[1]}{path}', timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode()


def deferring(hop):
    hop.say('220 hop')
    hop.serve(rcpt='451 4.7.1 Greylisted, come back in 3600 seconds')


def queued(server, to='x@far.example'):
    """A message that the next hop deferred once; its id."""
    told = len(server.events('delivery.deferred'))
    reply, _ = Mail(to=to).play(server)
    assert reply.code == 250, reply
    server.wait_events('delivery.deferred', told + 1)
    return server.events('message.accepted')[-1]['message']


def seeing():
    with NextHop(deferring) as hop, FaultServer(far(hop.port)) as server:
        message = queued(server)
        rows = wait_until('the row in the queue', lambda: [row for row in ask(server, 'queue') if row['attempts'] == 1])
        assert rows[0]['message'] == message and rows[0]['cause'] == 'remote.deferred' and rows[0]['side'] == 'theirs', rows
        assert 'Greylisted' in rows[0]['reply'], rows
        for by, name in (('dest', 'far.example'), ('cause', 'remote.deferred'), ('age', 'under 15 min')):
            assert [(row['name'], row['recipients']) for row in ask(server, 'queue', '--by', by)] == [(name, 1)], by
        assert ask(server, 'queue', '--dest', 'other.example') == []
        status = ask(server, 'status')
        assert status['queue']['messages'] == 1 and status['hostname'] == 'mx.home.example', status
        story = ask(server, 'why', message)
        assert story['state'] == 'queued' and 'remote.deferred' in story['causes'], story
        assert [event['event'] for event in story['events']] == ['message.accepted', 'delivery.deferred'], story['events']
        session = story['events'][0]['session']
        assert ask(server, 'why', session)['events'][0]['message'] == message
        text = run(server, 'why', message)[1]
        assert 'Greylisted' in text and 'next try' in text and 'means:' in text, text
        assert run(server, 'why', '0000000000000')[0] == 1 and run(server, 'why', 'nonsense')[0] == 2
        assert run(server, 'queue', '--by', 'colour')[0] == 2 and run(server, 'no-such-command')[0] == 2


def acting():
    with NextHop(deferring) as hop, FaultServer(far(hop.port)) as server:
        kept, dropped, bounced = queued(server, 'keep@far.example'), queued(server, 'drop@far.example'), queued(server, 'bounce@far.example')
        assert run(server, 'hold', kept)[0] == 0
        assert [row['state'] for row in ask(server, 'queue') if row['message'] == kept] == ['held']
        assert ask(server, 'status')['queue']['held'] == 1
        assert run(server, 'release', kept)[0] == 0
        assert run(server, 'drop', dropped)[0] == 0
        server.wait_events('message.ended', 1, message=dropped)
        assert run(server, 'bounce', bounced)[0] == 0
        server.wait_events('message.bounced', 1, message=bounced)
        assert run(server, 'retry', '0000000000000')[0] == 1
        before = len(server.events('delivery.deferred'))
        assert run(server, 'retry', '--dest', 'far.example')[0] == 0
        server.wait_events('delivery.deferred', before + 1)
        assert {event.get('message') for event in server.events('operator.action')} >= {kept, dropped, bounced}


def healing():
    """retry --all after the next hop is mended delivers at once, though the schedule says an hour."""
    replies = {'rcpt': '451 4.7.1 not now'}

    def mended_later(hop):
        hop.say('220 hop')
        hop.serve(changing=replies)

    with NextHop(mended_later) as hop, FaultServer(far(hop.port)) as server:
        messages = [queued(server, f'n{number}@far.example') for number in range(5)]
        replies.clear()
        assert run(server, 'retry', '--all')[0] == 0
        for message in messages:
            server.wait_events('message.ended', 1, message=message)
        assert sorted(to for _, tos, _ in hop.messages for to in tos) == [f'n{number}@far.example' for number in range(5)]
        wait_until('an empty queue', lambda: ask(server, 'queue') == [])
        assert ask(server, 'status')['queue']['messages'] == 0


def scraping():
    dead = f'filter av {{ speaks = clamd  address = "127.0.0.1:{free_port()}"  timeout = 2s }}'
    with FaultServer() as server:
        assert page(server, '/health')[0] == 200
        Mail().play(server)
        status, text = page(server, '/metrics')
        assert status == 200 and 'holdfast_messages_accepted_total 1\n' in text, text[:500]
        families = re.findall(r'^# TYPE (\S+)', text, re.M)
        assert len(families) == len(set(families)), 'a family is typed twice'
        samples = {re.match(r'[a-z_]+', line).group(0) for line in text.split('\n') if line and not line.startswith('#')}
        bases = {re.sub(r'_(bucket|sum|count)$', '', name) for name in samples}
        assert bases <= set(families) | samples & set(families) | bases & {f for f in families}, bases - set(families)
        assert page(server, '/')[0] == 200 and page(server, '/nothing')[0] == 404
    with FaultServer(dead) as server:
        for _ in range(10):
            reply, _ = Mail().play(server)
            assert reply.code in (451, 421), reply  # 421 once the breaker is open
        status, text = page(server, '/health')
        assert status == 503 and 'av' in text, (status, text)
        assert any(row['open'] for row in ask(server, 'status')['breakers'])


def without_server():
    with NextHop(deferring) as hop, FaultServer(far(hop.port)) as server:
        message = queued(server)
        assert run(server, 'spool', 'rebuild')[0] == 1, 'a rebuild beside the running server'
        server.stop()
        assert run(server, 'status')[0] == 75 and run(server, 'retry', '--all')[0] == 75
        assert [row['message'] for row in ask(server, 'queue')] == [message]
        assert ask(server, 'why', message)['state'] == 'queued'
        for name in os.listdir(os.path.join(server.folder, 'spool')):
            if name.startswith('index.db'):
                os.unlink(os.path.join(server.folder, 'spool', name))
        code, out, error = run(server, 'spool', 'rebuild')
        assert code == 0, (out, error)
        rows = ask(server, 'queue')
        assert [(row['message'], row['attempts'], row['cause']) for row in rows] == [(message, 1, 'remote.deferred')], rows


def configuring():
    with FaultServer() as server:
        assert run(server, 'config', 'check')[0] == 0
        code, shown, _ = run(server, 'config', 'show')
        assert code == 0 and 'mx.home.example' in shown
        again = os.path.join(server.folder, 'again.conf')
        with open(again, 'w') as file:
            file.write(shown)
        assert subprocess.run([HOLDFAST, 'config', 'show', '-c', again], capture_output=True, text=True).stdout == shown
        with open(again, 'w') as file:
            file.write('hostname = "mx.example"\nspool = "/tmp/x"\nlisten smtp { address = "nowhere" }\nlimits { message_size = 5X }\n')
        done = subprocess.run([HOLDFAST, 'config', 'check', '-c', again], capture_output=True, text=True)
        assert done.returncode == 1 and f'{again}:3:' in done.stderr and f'{again}:4:' in done.stderr, done.stderr


def main():
    checks.run('status, queue and why say what was recorded', seeing)
    checks.run('hold, release, drop, bounce, retry act and are journalled', acting)
    checks.run('retry --all after a repair empties the queue', healing)
    checks.run('metrics parse; health says 503 with the reason', scraping)
    checks.run('queue, why and rebuild with the server down; 75 for the rest', without_server)
    checks.run('config check names file and line; config show round-trips', configuring)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
