#!/usr/bin/env python3
"""The queue in an operator's hands, and in the scheduler's: hold, release, drop, bounce, retry, reroute by id, destination,
cause and sender; suspension that neither ages nor counts; a next hop that comes back and is met by a ramp; a bulk that
others pass; the final reply lost on the way."""
import json
import re
import socket
import threading
import time

from lib import Checks, Client, Server, wait_until
from lib_hop import Names, NextHop
from test_delivery import answers, far, planned, retry, send

checks = Checks()
LATER = '451 4.3.0 not now'


def ask(server, *words, code=0):
    got, out, error = server.run(*words, '--json')
    assert got == code, (words, got, out, error)
    return json.loads(out)


def act(server, *words, touched=None, code=0):
    answer = ask(server, *words, code=code)
    if touched is not None:
        assert answer['touched'] == touched, (words, answer)
    return answer


def waiting(server, count, *words):
    """The rows of the queue, once so many have been tried."""
    return wait_until(f'{count} rows of {words}', lambda: (rows := [row for row in ask(server, 'queue', *words) if row['attempts']])
                      and len(rows) == count and rows)


def two_routes(one, two):
    return (f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "one.example" {{ via = "smtp:127.0.0.1:{one}" }}\n'
            f'route "two.example" {{ via = "smtp:127.0.0.1:{two}" }}\n')


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]


# ---------------------------------------------------------------- choosing and acting

def choosing():
    with NextHop(answers(rcpt=LATER)) as hop, Server(extra=two_routes(hop.port, free_port()) + retry('1h')) as server:
        for sender, to in (('a@x.example', 'u@one.example'), ('b@x.example', 'u@one.example'), ('a@x.example', 'u@two.example')):
            send(server, to, sender=sender)
        waiting(server, 3)
        waiting(server, 2, '--sender', 'a@x.example')
        waiting(server, 3, '--sender', '@X.example')
        waiting(server, 2, '--dest', 'ONE.example')
        waiting(server, 1, '--cause', 'connect.refused')
        by_dest = {row['name']: row['recipients'] for row in ask(server, 'queue', '--by', 'dest')}
        assert by_dest == {'one.example': 2, 'two.example': 1}, by_dest
        by_cause = {row['name']: row['recipients'] for row in ask(server, 'queue', '--by', 'cause')}
        assert by_cause == {'remote.deferred': 2, 'connect.refused': 1}, by_cause
        age, = ask(server, 'queue', '--by', 'age')
        assert age['recipients'] == 3 and {row['name']: row['recipients'] for row in age['destinations']} == by_dest, age
        table = server.run('queue', '--by', 'age')[1].split('\n')
        assert re.search(r'TOTAL +3 +3 +0', table[1]) and re.search(r'one\.example +2 +2', table[2]), table
        act(server, 'hold', '--sender', 'a@x.example', touched=2)
        assert sorted(row['state'] for row in ask(server, 'queue')) == ['deferred', 'held', 'held']
        before = len(server.events('delivery.deferred'))
        for turn in (1, 2):     # many at once: what is held is left alone
            assert server.run('retry', '--sender', '@x.example')[0] == 0
            server.wait_events('delivery.deferred', before + turn)
        again = [event['from'] for event in server.events('delivery.deferred')[before:]]
        assert set(again) == {'b@x.example'}, again
        act(server, 'release', '--sender', 'a@x.example', touched=2)
        act(server, 'drop', '--sender', 'b@x.example', touched=1)
        act(server, 'bounce', '--dest', 'two.example', touched=1)
        act(server, 'drop', '--cause', 'remote.deferred', touched=1)
        wait_until('an empty queue but for the bounce', lambda: not ask(server, 'queue', '--sender', '@x.example'))
        act(server, 'drop', '--sender', 'nobody@x.example', touched=0, code=1)
        assert server.run('retry')[0] == 1 and server.run('suspend', '--cause', 'expired')[0] == 1
        told = [event['text'] for event in server.events('operator.action') if not event['text'].startswith('retry')]
        one_each = [text for text in told if ':' not in text]
        assert len(one_each) == 2 + 2 + 1 + 1 + 1 and all(re.fullmatch(r'\w+ by \S+', text) for text in one_each), told
        assert any(re.fullmatch(r'bounce by \S+: dest=two\.example: 1 message\(s\)', text) for text in told), told


def orders_of(server):
    with open(f'{server.folder}/spool/orders') as file:
        return file.read()


def reroute():
    """By destination for what comes later too, by id for that message alone; it survives a restart, and ends."""
    port = free_port()      # the worker's locks know it from a route
    with NextHop(planned(), port=port) as new, Server(extra=two_routes(free_port(), free_port()) + retry('1h') +
                                                      f'route "spare.example" {{ via = "smtp:127.0.0.1:{port}" }}\n') as server:
        one, two = send(server, 'u@one.example'), send(server, 'u@two.example')
        waiting(server, 2)
        via = ('--via', f'smtp:127.0.0.1:{new.port}')
        act(server, 'reroute', one, *via, touched=1)
        server.wait_events('delivery.done', 1, message=one)
        wait_until('the order for a message to end with it', lambda: f'#{one}' not in orders_of(server))
        act(server, 'reroute', '--dest', 'two.example', *via, touched=1)
        server.wait_events('delivery.done', 1, message=two)
        server.stop()
        server.start()
        later = send(server, 'u@two.example')
        server.wait_events('delivery.done', 1, message=later)
        act(server, 'reroute', '--dest', 'two.example', '--via', 'none')
        refused = send(server, 'u@two.example')
        assert server.wait_events('delivery.deferred', 1, message=refused)[0]['cause'] == 'connect.refused'
        assert server.run('reroute', one)[0] == 1 and 'via' in server.run('reroute', one)[2]
        assert 'smtp:HOST:PORT' in server.run('reroute', one, '--via', 'maildir:/tmp')[2]


def where():
    with Server(extra=two_routes(2525, 2526)) as server:
        code, out, _ = server.run('route', 'u@one.example')
        assert code == 0 and out.strip().startswith('smtp:127.0.0.1:2525'), out


# ---------------------------------------------------------------- suspension

def suspension():
    """Longer than the whole life of a message: nothing is tried, told or returned; then all is delivered."""
    with NextHop(planned()) as hop:
        with Server(extra=far(hop.port) + retry('1h', warn='1s', expire='2s')) as server:
            act(server, 'suspend', '--dest', 'far.example')
            message = send(server, 'u@far.example', sender='alice@rcpt.test')
            began = time.monotonic()
            row, = wait_until('why it waits', lambda: ask(server, 'queue', '--cause', 'operator.suspended'))
            assert row['attempts'] == 0 and 'suspended by' in row['reply'], row
            row, = [row for row in ask(server, 'status')['destinations'] if row['suspended']]
            assert row['destination'] == 'suspended:far.example', row
            server.stop()
            server.start()    # an order outlives the server
            later = send(server, 'v@far.example', sender='alice@rcpt.test')
            wait_until('longer than expire_after', lambda: time.monotonic() > began + 3)
            assert not hop.messages and not server.events('delivery.deferred') and not server.mails('alice')
            act(server, 'resume', '--dest', 'far.example', touched=2)
            for each in (message, later):
                assert server.wait_events('delivery.done', 1, message=each)[0]['attempt'] == 1
            assert not server.mails('alice') and not server.events('message.expired')
            act(server, 'resume', '--dest', 'far.example', code=1)
            texts = [event['text'] for event in server.events('operator.action')]
            assert any(text.startswith('resume by ') for text in texts), texts


def suspension_of_one_domain():
    """Two domains with one next hop: only the one that was named waits."""
    with NextHop(planned()) as hop, Server(extra=two_routes(hop.port, hop.port)) as server:
        act(server, 'suspend', '--dest', 'two.example')
        message = send(server, ['u@one.example', 'u@two.example'])
        assert server.wait_events('delivery.done', 1, message=message)[0]['to'] == 'u@one.example'
        row, = wait_until('the other', lambda: ask(server, 'queue', '--cause', 'operator.suspended'))
        assert row['to'] == 'u@two.example', row
        act(server, 'resume', '--dest', 'two.example', touched=1)
        server.wait_events('delivery.done', 2, message=message)
        assert sorted(to for _, recipients, _ in hop.messages for to in recipients) == ['u@one.example', 'u@two.example']


# ---------------------------------------------------------------- recovery

class Ramp:
    """A next hop that counts its connections."""

    def __init__(self):
        self.lock, self.open, self.most, self.begun = threading.Lock(), 0, 0, []

    def __call__(self, hop):
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
            self.begun.append((time.monotonic(), self.open))
        try:
            hop.say('220 hop')
            hop.serve()
        finally:
            with self.lock:
                self.open -= 1


def recovery():
    """What waits for its own, far next time is tried as soon as the destination answers; one connection first, then more."""
    port, count = free_port(), 60
    schedule = '300ms, 300ms, 300ms, 300ms, 1h'
    with Server(extra=far(port) + retry(schedule)) as server:
        for number in range(count):
            send(server, f'u{number}@far.example')
        wait_until('all to wait', lambda: len(ask(server, 'queue', '--cause', 'connect.refused')) == count)
        wait_until('the destination to be given up for a while', lambda: any('next try in 15 min' in line for line in server.lines))
        ramp = Ramp()
        with NextHop(ramp, port) as hop:
            # One message tells that the destination answers; all others follow it.
            probe = ask(server, 'queue')[0]['message']
            act(server, 'retry', probe, touched=1)
            server.wait_events('delivery.done', count)
            assert len(hop.messages) == count, len(hop.messages)
            assert ramp.begun[0][1] == 1 and 1 <= ramp.most <= 20, ramp.begun
            server._wait('the journal to say so', lambda: any('answers again' in line for line in server.lines))


def outage():
    """Five hours without the next hop, one hour being two seconds: the right attempts at the right times, the delay told at
    the mark, no bounce, prompt delivery, one story."""
    hour = 2.0
    text = lambda hours: f'{round(hours * hour * 1000)}ms'
    schedule = ', '.join([text(1 / 12), text(1 / 6), text(1 / 3), text(1 / 2), f'"{text(1)} until {text(6)}"',
                          f'"{text(2)} until {text(24)}"', text(4)])
    settings = f'retry {{ schedule = {{{schedule}}}  warn_after = {text(4)}  expire_after = {text(120)}  jitter = 0 }}\n'
    port = free_port()
    with Server(extra=far(port) + settings) as server:
        message = send(server, 'u@far.example', sender='alice@rcpt.test')
        began = time.time()
        notice, = server.wait_mails('alice', 1)
        assert b'Action: delayed' in notice and b'Will-Retry-Until:' in notice, notice
        wait_until('five hours to pass', lambda: time.time() > began + 5 * hour, patience_s=60)
        tries = server.events('delivery.deferred')
        assert [event['attempt'] for event in tries] == list(range(1, len(tries) + 1)), tries
        for before, after in zip(tries, tries[1:]):
            assert after['time'] >= before['next'], (before, after)
        # 0, 5, 15, 35, 65, 125, 185 minutes, the mark at 240, then 300.
        assert 8 <= len(tries) <= 9 and not server.events('message.expired') and not server.events('message.bounced'), tries
        with NextHop(planned(), port) as hop:
            server.wait_events('delivery.done', 1, message=message)
            server.wait_events('message.ended', 1, message=message)
            assert len(hop.messages) == 1 and len(server.mails('alice')) == 1
        story = ask(server, 'why', message)
        told = json.dumps(story)
        assert told.count('connect.refused') >= len(tries) and 'delivery.done' in told, story


# ---------------------------------------------------------------- nobody waits for another

def bulk(server, number, sender, domain):
    """Many messages in one session."""
    with Client(server.address('smtp')) as client:
        assert client.command('EHLO client.example').code == 250
        for each in range(number):
            for command, code in ((f'MAIL FROM:<{sender}>', 250), (f'RCPT TO:<u{each}@{domain}>', 250), ('DATA', 354),
                                  ('Subject: bulk\r\n\r\nbulk\r\n.', 250)):
                reply = client.command(command)
                assert reply.code == code, reply
        client.command('QUIT')


def slow(hop):
    """A second for each message, as a busy server needs."""
    hop.say('220 hop')
    while True:
        verb = hop.line()[:4].lower()
        if not verb or verb == 'quit':
            return
        hop.say('354 go' if verb == 'data' else '250 fine')
        if verb == 'data':
            hop.body()
            time.sleep(1)
            hop.owner.messages.append(hop.lines[-3])
            hop.say('250 taken')


def passing_a_bulk():
    """Behind 2,500 messages of one sender to a slow destination, which take minutes: another sender's to the same, and
    anybody's to another destination, are delivered at once."""
    with NextHop(slow) as one, NextHop(planned()) as two, Server(extra=two_routes(one.port, two.port)) as server:
        bulk(server, 2500, 'bulk@x.example', 'one.example')
        other = send(server, 'u@two.example', sender='bulk@x.example')
        same = send(server, 'other@one.example', sender='other@y.example')
        server.wait_events('delivery.done', 1, message=other)
        server.wait_events('delivery.done', 1, message=same)
        assert len(one.messages) < 1000, len(one.messages)


def passing_a_dead_domain():
    port = free_port()
    with NextHop(planned()) as two, Server(extra=two_routes(port, two.port) + retry('1s')) as server:
        bulk(server, 3000, 'a@x.example', 'one.example')
        for number in range(20):
            send(server, f'v{number}@two.example', sender='a@x.example')
        server.wait_events('delivery.done', 20)


# ---------------------------------------------------------------- the dot

class At(NextHop):
    """A next hop at another address of loopback."""

    def __init__(self, address, script, port):
        super().__init__(script)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = socket.create_server((address, port))
        self.port = port
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()


def cut_at_dot(hop):
    hop.say('220 hop')
    while hop.line()[:4].lower() != 'data':
        hop.say('250 hop')
    hop.say('354 go')
    hop.owner.messages.append(('', [], hop.body()))


class Swallowing:
    """Between the server and its next hop: passes everything on but the final reply, so many times, and then goes silent."""

    def __init__(self, port, swallow, close):
        self.port, self.left, self.close, self.swallowed = port, swallow, close, 0
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        hop = socket.create_connection(('127.0.0.1', self.port))
        threading.Thread(target=self._back, args=(hop, client), daemon=True).start()
        try:
            while data := client.recv(65536):
                hop.sendall(data)
        except OSError:
            pass
        hop.close()

    def _back(self, hop, client):
        try:
            while data := hop.recv(65536):
                with self.lock:
                    swallow = self.left > 0 and b'taken' in data
                    self.left -= swallow
                    self.swallowed += swallow
                if not swallow:
                    client.sendall(data)
                elif self.close:
                    client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.listener.close()


def lost_reply(number=3):
    """The next hop took the message, its 250 was lost on the wire: maybe delivered. Each copy more has its event."""
    with NextHop(planned()) as hop, Swallowing(hop.port, number, close=True) as wire, \
            Server(extra=far(wire.listener.getsockname()[1]) + retry('100ms', pause='700ms')) as server:
        message = send(server, 'u@far.example')
        server.wait_events('delivery.done', 1, message=message)
        maybe = server.events('delivery.deferred')
        assert [event['cause'] for event in maybe] == ['ambiguous.dot'] * number and wire.swallowed == number, maybe
        assert all(event['stage'] == 'dot' and '127.0.0.1' in event['mx'] for event in maybe), maybe
        assert len(hop.messages) == 1 + len(maybe), hop.messages
        for before, after in zip(maybe, [*maybe[1:], *server.events('delivery.done')]):
            assert after['time'] >= before['next'], (before, after)
        code, out, _ = server.run('why', message)
        assert code == 0 and out.count('ambiguous.dot (theirs)') == number and 'may have been delivered' in out, out


def same_host_first():
    """The reply was lost at the second host, since the first was away; now the first is back, but the second may have it."""
    port = free_port()
    zone = {('far.example', 'MX'): ['10 mx1.far.example', '20 mx2.far.example'],
            ('mx1.far.example', 'A'): ['127.0.0.2'], ('mx2.far.example', 'A'): ['127.0.0.3']}
    with Names(zone) as names, At('127.0.0.3', planned(cut_at_dot), port) as second, \
            Server(extra=f'relay {{ from = {{"127.0.0.0/8"}}  port = {port} }}\nresolver {{ forward = {{"{names.address}"}} }}\n'
                   + retry('100ms', pause='1s')) as server:
        message = send(server, 'u@far.example')
        maybe, = server.wait_events('delivery.deferred', 1, message=message)
        assert maybe['cause'] == 'ambiguous.dot' and 'mx2.far.example[127.0.0.3]' in maybe['mx'], maybe
        with At('127.0.0.2', planned(), port) as first:
            done, = server.wait_events('delivery.done', 1, message=message)
            assert 'mx2.far.example[127.0.0.3]' in done['mx'] and not first.messages, done
            assert len(second.messages) == 2, second.messages
            wait_until('the kept connection to end', lambda: second.hops[-1].lines[-1:] == ['QUIT'])
            other = send(server, 'v@far.example')    # another message goes by preference
            done, = server.wait_events('delivery.done', 1, message=other)
            assert 'mx1.far.example[127.0.0.2]' in done['mx'], done


# ---------------------------------------------------------------- how it is sent

def chunked(hop, known=True):
    """A next hop that offers CHUNKING; and knows it, or not."""
    hop.say('220 hop')
    recipients = []
    while True:
        line = hop.line()
        verb = line[:4].lower()
        if not verb or verb == 'quit':
            return
        if verb == 'bdat' and known:
            size = int(line.split()[1])
            while len(hop.pending) < size:
                hop.pending += hop.socket.recv(65536)
            body, hop.pending = hop.pending[:size], hop.pending[size:]
            assert line.endswith(' LAST'), line
            hop.owner.messages.append(('bdat', recipients, body))
            hop.say('250 taken')
            continue
        if verb == 'rcpt':
            recipients.append(line)
        if verb == 'data':
            hop.say('354 go')
            hop.owner.messages.append(('data', recipients, hop.body()))
            hop.say('250 taken')
            continue
        hop.say('250-hop\r\n250-PIPELINING\r\n250 CHUNKING' if verb == 'ehlo' else '250 fine' if verb in ('mail', 'rcpt', 'rset') else '500 what?')


LONG = 'Subject: long\r\n\r\n' + ''.join(f'.{number} {"x" * 60}\r\n' for number in range(5000))


def chunking():
    with NextHop(chunked) as hop, Server(extra=far(hop.port)) as server:
        for body in (LONG, 'Subject: short\r\n\r\n.\r\n..\r\n'):
            message = send(server, ['u@far.example', 'v@far.example'], body=body)
            server.wait_events('delivery.done', 2, message=message)
        assert [how for how, _, _ in hop.messages] == ['bdat', 'bdat'], hop.messages
        assert hop.messages[0][2].endswith(LONG.encode()) and hop.messages[1][2].endswith(b'\r\n\r\n.\r\n..\r\n')
    with NextHop(lambda hop: chunked(hop, False)) as hop, Server(extra=far(hop.port)) as server:
        message = send(server, 'u@far.example')
        server.wait_events('delivery.done', 1, message=message)
        assert [how for how, _, _ in hop.messages] == ['data'], hop.messages
    with NextHop(chunked) as hop, Server(extra=far(hop.port).replace('relay {', 'relay { chunking = no ')) as server:
        server.wait_events('delivery.done', 1, message=send(server, 'u@far.example'))
        assert [how for how, _, _ in hop.messages] == ['data'], hop.messages


def verp():
    with NextHop(planned()) as hop, Server(extra=far(hop.port) + 'verp "list@rcpt.test" { separator = "+" }\n') as server:
        message = send(server, ['u@far.example', 'v@far.example'], sender='list@rcpt.test')
        server.wait_events('delivery.done', 2, message=message)
        other = send(server, ['u@far.example', 'v@far.example'], sender='alice@rcpt.test')
        server.wait_events('delivery.done', 2, message=other)
        lines = [line for each in hop.hops for line in each.lines if line.startswith(('MAIL', 'RCPT'))]
        senders = sorted(re.search('<(.*?)>', line).group(1) for line in lines if line.startswith('MAIL'))
        assert senders == ['alice@rcpt.test', 'list+u=far.example@rcpt.test', 'list+v=far.example@rcpt.test'], lines


def bounds():
    """Connections at once to a domain, and to all domains of a provider; messages an hour."""
    ramp, port = Ramp(), free_port()
    zone = {('one.example', 'MX'): ['10 a.mx.provider.example'], ('two.example', 'MX'): ['10 b.mx.provider.example'],
            ('a.mx.provider.example', 'A'): ['127.0.0.2'], ('b.mx.provider.example', 'A'): ['127.0.0.2']}
    with Names(zone) as names, At('127.0.0.2', ramp, port) as hop, \
            Server(extra=f'relay {{ from = {{"127.0.0.0/8"}}  port = {port} }}\nresolver {{ forward = {{"{names.address}"}} }}\n'
                   'destination "provider.example" { connections = 2 }\n') as server:
        for number in range(30):
            send(server, f'u{number}@{"one" if number % 2 else "two"}.example')
        server.wait_events('delivery.done', 30)
        assert len(hop.messages) == 30 and ramp.most <= 2, ramp.begun
    with NextHop(planned()) as hop, Server(extra=f'relay {{ from = {{"127.0.0.0/8"}}  via = "smtp:localhost:{hop.port}" }}\n'
                                           'destination "localhost" { messages = 18000 }\n') as server:
        began = time.monotonic()
        for number in range(10):
            send(server, f'u{number}@far.example')
        server.wait_events('delivery.done', 10)
        assert time.monotonic() - began > 9 * 0.2, 'ten messages at five a second'
        assert all(event['attempt'] == 1 for event in server.events('delivery.done'))


def main():
    checks.run('choosing by id, destination, cause, sender; each action told', choosing)
    checks.run('reroute: by message, by destination, over a restart, and back', reroute)
    checks.run('route says where mail would go', where)
    checks.run('a suspension neither ages nor counts, and outlives a restart', suspension)
    checks.run('a suspension of one domain of a shared next hop', suspension_of_one_domain)
    checks.run('a destination that answers again is met by a ramp', recovery)
    checks.run('an outage of five hours, shortened', outage)
    checks.run('a bulk is passed by others', passing_a_bulk)
    checks.run('a dead domain is passed by others', passing_a_dead_domain)
    checks.run('a lost final reply: maybe delivered', lost_reply)
    checks.run('what may have been delivered goes to the same host first', same_host_first)
    checks.run('BDAT where it is offered, DATA where it is not known', chunking)
    checks.run('VERP: a sender for each recipient', verp)
    checks.run('bounds by destination and by provider', bounds)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
