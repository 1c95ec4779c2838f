#!/usr/bin/env python3
"""Makes the manual pages from what the program itself is made from.

    man.py holdfast.8 VERSION src/app/commands.def          every command
    man.py holdfast.conf.5 VERSION docs/configuration.md    every setting (the file is the program's own account)

The page goes to standard output."""
import os
import re
import sys

SHELL = [('EXAMPLES', r'''.EX
holdfast config check
systemctl start holdfast
holdfast status
holdfast why --in
.EE'''),
         ('EXIT STATUS', '0 fine; 1 a problem was found; 2 usage; 75 the server, or a service that is needed, cannot be reached now.'),
         ('FILES', r'''.TP
.I /etc/holdfast/holdfast.conf
the configuration, unless
.B \-c
or
.B HOLDFAST_CONFIG
names another'''),
         ('SEE ALSO', '.BR holdfast.conf (5)')]


def roff(text):
    """Text of ours as roff takes it: no escapes, no requests; `code` in bold."""
    text = text.replace('\\|', '|').replace('\\', r'\e').replace('-', r'\-')
    text = re.sub(r'`([^`]*)`', r'\\fB\1\\fR', text)
    return r'\&' + text if text.startswith(('.', "'")) else text


def head(name, section, version, about):
    print(f'.TH {name.upper()} {section} "" "Holdfast {version}" "Holdfast"')
    print(f'.SH NAME\n{name} \\- {about}')


def commands(source, version):
    rows = re.findall(r'^COMMAND\("((?:[^"\\]|\\.)*)", \w+, "((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\)', source, re.M)
    assert rows and len(rows) == len(re.findall(r'^COMMAND\(', source, re.M)), 'a row of commands.def is not understood'
    head('holdfast', 8, version, 'mail transfer agent that never loses a message and always says why it waits')
    print('.SH SYNOPSIS\n.B holdfast\n.I COMMAND\n[\\-c FILE] ...')
    print('.SH DESCRIPTION\nServer, queue and diagnosis in one program. Called as\n.BR sendmail ,\n.B mailq\nor\n.BR newaliases ,\nit does what those do.')
    print('.SH COMMANDS')
    for word, usage, about in rows:
        print(f'.TP\n.B {roff(word)} \\fR{roff(usage)}\n{roff(about)}')
    for title, text in SHELL:
        print(f'.SH {title}\n{text}')


def settings(source, version):
    head('holdfast.conf', 5, version, 'configuration of holdfast(8)')
    print('.SH DESCRIPTION\nA mistake is answered with file and line by\n.BR "holdfast config check" .\nSections may repeat; include("FILE") works.')
    for line in source.splitlines():
        if line.startswith('## '):
            print(f'.SH {roff(line[3:])}')
        elif line.startswith('| `'):
            name, values, fallback, about = (cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:5])
            print(f'.TP\n{roff(name)}\n{roff(about)}\n.br\nValues: {roff(values)}. Default: {roff(fallback)}.')
        elif line.startswith('- '):
            print(f'.TP\n{roff(line[2:])}\n.br')
        elif line and not line.startswith(('|', '#', 'Made from')):
            print(roff(line))
    print('.SH SEE ALSO\n.BR holdfast (8)')


def main(page, version, source):
    with open(source) as file:
        text = file.read()
    commands(text, version) if page == 'holdfast.8' else settings(text, version)
    return 0


if __name__ == '__main__':
    if len(sys.argv) != 4 or os.path.basename(sys.argv[1]) not in ('holdfast.8', 'holdfast.conf.5'):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(os.path.basename(sys.argv[1]), *sys.argv[2:]))
