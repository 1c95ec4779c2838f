"""Messages of many shapes through test_mime7's converter (argument 1): the result is 7-bit, and Python's email package finds
the same parts with the same content in it, however the input is cut."""
import email
import email.policy
import random
import subprocess
import sys

FAULTS = {11: 'header', 12: 'signed', 13: 'unfit', 14: 'limit', 15: 'memory'}
random.seed(20261129)


def convert(text, size):
    done = subprocess.run([sys.argv[1], 'convert', str(size)], input=text, stdout=subprocess.PIPE)
    return FAULTS.get(done.returncode, done.returncode), done.stdout


def octets(kind, count):
    if kind == 'latin':
        return bytes(random.choice(b'abcdefgh =\t.,\xe9\xfc\xdf') for _ in range(count))
    if kind == 'russian':
        return ''.join(random.choice('абвгдежзик \t') for _ in range(count)).encode()
    if kind == 'ascii':
        return bytes(random.choice(b'abc =.-\t') for _ in range(count))
    return bytes(random.randrange(256) for _ in range(count)).replace(b'\r', b'x').replace(b'\n', b'y')


def body(kind):
    lines = [octets(kind, random.choice((0, 1, 20, 76, 77, 200))) for _ in range(random.randrange(8))]
    return b''.join(line.replace(b'\r', b'').replace(b'\n', b'') + b'\r\n' for line in lines)


def leaf():
    kind = random.choice(('latin', 'russian', 'ascii', 'ascii', 'binary'))
    types = {'latin': ('text/plain; charset=iso-8859-1', 'text/html; charset="iso-8859-1"'), 'russian': ('text/plain; charset=utf-8',),
             'ascii': ('text/plain', 'application/x-y'), 'binary': ('application/octet-stream', 'image/png; name="a b.png"')}[kind]
    encoding = random.choice({'ascii': ('', '7bit', '8bit'), 'binary': ('binary', '8bit')}.get(kind, ('8bit', '8BIT', '')))
    text = b'Content-Type: ' + random.choice(types).encode() + b'\r\n'
    if encoding:
        text += b'Content-Transfer-Encoding: ' + encoding.encode() + b'\r\n'
    return text + b'X-Mark: kept\r\n\r\n' + body(kind)


def entity(depth=0):
    if depth > 4 or random.random() < 0.45:
        return leaf()
    if random.random() < 0.3:
        return b'Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: inner\r\nMIME-Version: 1.0\r\n' + entity(depth + 1)
    boundary = f'=_b{depth}_{random.randrange(1000)}'
    text = f'Content-Type: multipart/{random.choice(("mixed", "alternative", "related"))};\r\n\tboundary="{boundary}"\r\n'.encode()
    text += random.choice((b'', b'Content-Transfer-Encoding: 8bit\r\n')) + b'\r\n' + random.choice((b'', b'preamble\r\n'))
    for _ in range(random.randrange(1, 4)):
        text += b'--' + boundary.encode() + b'\r\n' + entity(depth + 1) + b'\r\n'
    return text + b'--' + boundary.encode() + b'--\r\n' + random.choice((b'', b'epilogue\r\n'))


def leaves(text):
    message = email.message_from_bytes(text, policy=email.policy.compat32)
    found = []
    for part in message.walk():
        headers = [(name, value) for name, value in part.items() if name.lower() != 'content-transfer-encoding']
        payload = None if part.is_multipart() else part.get_payload(decode=True)
        found.append((part.get_content_type(), headers, payload))
    return found


def same(text, result):
    ours, theirs = leaves(text), leaves(result)
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    for (type_a, headers_a, body_a), (type_b, headers_b, body_b) in zip(ours, theirs):
        assert type_a == type_b and headers_a == headers_b, (type_a, headers_a, headers_b)
        assert body_a == body_b, (type_a, body_a, body_b)


converted = 0
for number in range(60):
    text = b'From: a@b.example\r\nMIME-Version: 1.0\r\n' + entity()
    fault, result = convert(text, 65536)
    assert fault == 0, (number, fault, text)
    assert all(byte < 0x80 for byte in result), number
    same(text, result)
    converted += result != text
    assert convert(text, random.choice((1, 2, 3, 7, 1023, 1024, 1025))) == (0, result), number
assert converted > 30, converted

# Signed mail is as it was, or not taken.
for inner in (b'Content-Type: text/plain\r\n\r\nplain\r\n', b'Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa7\r\n'):
    text = (b'MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary="s"; protocol="application/pgp-signature"\r\n\r\n--s\r\n' + inner
            + b'--s\r\nContent-Type: application/pgp-signature\r\n\r\nabc\r\n--s--\r\n')
    fault, result = convert(text, 100)
    assert (fault, result) == (0, text) if b'\xc3' not in text else fault == 'signed', (fault, result)
print('60 messages, %d of them changed: the same parts and content' % converted)
