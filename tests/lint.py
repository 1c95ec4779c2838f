#!/usr/bin/env python3
"""The rules of the house that a compiler does not check: the include table of the rooms, layout, sizes, banned calls,
const verdicts, a fuzz target for each parser, planted bugs that still fit, tests that
pages name. Prints one line a finding and ends with 'N passed, N failed'."""
import glob
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SRC = os.path.join(ROOT, 'src')

# A room may include only its own headers and those of the rooms named here, lowest first.
ROOMS = {
    'base': '',
    'verdict': 'base',
    'runtime': 'base',
    'config': 'base',
    'guard': 'base config',
    'observe': 'base verdict runtime',
    'mail': 'base',
    'crypto': 'base runtime observe',
    'wire': 'base runtime observe mail crypto',
    'resolve': 'base runtime observe',
    'fetch': 'base runtime',
    'auth': 'base runtime observe mail crypto resolve',
    'directory': 'base runtime observe config mail crypto',
    'spool': 'base runtime observe config verdict mail',
    'history': 'base runtime observe config verdict mail',
    'policy': 'base runtime observe config verdict mail wire resolve auth directory history',
    'deliver': 'base runtime observe config verdict mail crypto wire resolve fetch auth directory spool history',
    'receive': 'base runtime observe config verdict mail crypto wire resolve auth directory spool history policy',
    'schedule': 'base runtime observe config verdict mail spool history deliver',
    'diagnose': 'base runtime observe config guard verdict mail crypto wire resolve fetch auth directory spool history policy deliver',
    'console': 'base runtime observe config verdict wire spool history schedule diagnose policy',
    'kernel': 'base runtime',
    'sim': 'base runtime config verdict mail wire resolve fetch spool history directory observe',
    'runner': 'base config guard wire',
    'app': None,  # main(), wiring and the command line may see every room but the worlds
}
PRIVATE_TO_WORLDS = 'runtime/world.h'
BANNED = ('strcpy strcat sprintf vsprintf strtok alloca setjmp longjmp gets atoi atol atof scanf sscanf '
          'system popen tmpnam mktemp').split()
FILE_LINES, FUNCTION_LINES, PARAMETERS = 800, 70, 6
FOREIGN_SIGNATURES = {'web_request', 'ecdsa_ask'}  # callbacks whose parameters a library dictates
FORMATTER = 'clang-format'


def sources(folder):
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(('.c', '.h', '.def')):
                yield os.path.join(base, name)


def strip_comments(text):
    """The code with comments and string bodies blanked, line numbers kept."""
    def blank(match):
        return re.sub(r'[^\n]', ' ', match.group(0)) if match.group(0).startswith('/') else '""'
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S)


def check_includes(path, room, text):
    allowed = ROOMS[room]
    for number, line in enumerate(text.split('\n'), 1):
        match = re.match(r'\s*#\s*include\s+"([^"/]+)/([^"]+)"', line)
        if not match:
            if re.match(r'\s*#\s*include\s+"', line):
                yield number, 'include names no room'
            continue
        other, header = match.groups()
        if other not in ROOMS:
            yield number, f'no such room: {other}'
        elif other == room:
            continue
        elif f'{other}/{header}' == PRIVATE_TO_WORLDS and room in ('kernel', 'sim'):
            continue
        elif other in ('kernel', 'sim'):
            yield number, f'{other} is included by nobody'
        elif allowed is not None and other not in allowed.split():
            yield number, f'{room} may not include {other}'
        elif other != 'base' and header not in (f'{other}.h', 'causes.def', 'events.def', 'metrics.def'):
            yield number, f'{other}/{header} is private to its room'


def functions(code):
    """(name, first line, line count, parameters) of each definition, found by a brace in column 0."""
    lines = code.split('\n')
    start = None
    for index, line in enumerate(lines):
        if line == '{':
            start = index
        elif line == '}' and start is not None:
            head = start - 1
            while head > 0 and lines[head - 1].strip() and lines[head - 1][:1] not in '}#/;' and not lines[head - 1].rstrip().endswith((';', '}')):
                head -= 1
            signature = ' '.join(lines[head:start])
            match = re.search(r'(\w+)\s*\((.*)\)', signature)
            if match:
                arguments = match.group(2)
                depth = 0
                count = 1
                for char in arguments:
                    depth += (char == '(') - (char == ')')
                    count += char == ',' and depth == 0
                yield match.group(1), head + 1, index - start - 1, count
            start = None


def check_sizes(path, code):
    lines = code.split('\n')
    if len(lines) > FILE_LINES and not path.endswith('.def'):
        yield len(lines), f'file has {len(lines)} lines (at most {FILE_LINES})'
    for name, line, length, parameters in functions(code):
        if length > FUNCTION_LINES:
            yield line, f'{name}() has {length} lines (at most {FUNCTION_LINES})'
        if parameters > PARAMETERS and name not in FOREIGN_SIGNATURES:
            yield line, f'{name}() takes {parameters} parameters (at most {PARAMETERS})'


def check_calls(code):
    for number, line in enumerate(code.split('\n'), 1):
        for name in BANNED:
            if re.search(r'(?<![\w.>])' + name + r'\s*\(', line):
                yield number, f'{name}() is banned'
        if re.search(r'\(void\)\s*\w+\(', line) and 'snprintf' not in line:
            yield number, 'a result is thrown away by a cast to void'


def check_verdicts(code):
    lines = code.split('\n')
    for _, head, length, _ in functions(code):
        for number in range(head, head + length + 4):
            if number < len(lines) and re.match(r'\s+struct verdict \w+( =|;)', lines[number]):
                yield number + 1, 'a verdict local has to be const'


PARSER = re.compile(r'(^|_)(parse|decode|unpack|lint|talk)(_|$)')
PARSERS = os.path.join(ROOT, 'tests', 'fuzz', 'parsers.tsv')


def parsers_table():
    """{function: [(line, target)...]}"""
    table = {}
    with open(PARSERS) as file:
        for number, line in enumerate(file, 1):
            if not line.startswith('#'):
                function, target = line.rstrip('\n').split('\t')
                table.setdefault(function, []).append((number, target))
    return table


def check_parsers(code, table):
    """A header's parser of outside bytes has a fuzz target."""
    for match in re.finditer(r'\b(\w+)\s*\(([^()]*)\)\s*;', code):
        name, parameters = match.groups()
        reads = re.search(r'struct bytes\b|struct (stream|wire_input|reader) \*', parameters)
        if PARSER.search(name) and reads and name not in table and 'typedef' not in code[match.start() - 40:match.start()]:
            yield code[:match.start()].count('\n') + 1, f'{name}() has no fuzz target: name one in tests/fuzz/parsers.tsv'


def check_targets(code, table):
    """Each row of that table is about a function and a target that are there, and each target is in it."""
    words = set(re.findall(r'\w+', code))
    files = {name[5:-2] for name in os.listdir(os.path.dirname(PARSERS)) if re.fullmatch(r'fuzz_\w+\.c', name)}
    for function, rows in table.items():
        for line, target in rows:
            if function not in words:
                yield line, f'there is no {function}()'
            if target not in files:
                yield line, f'there is no target {target}'
    for target in sorted(files - {target for rows in table.values() for _, target in rows}):
        yield 1, f'the target {target} stands beside no function'


def check_mutants():
    """The text that a planted bug replaces stands where it says, once: who moves it brings the planted bug along."""
    sys.path.insert(0, os.path.join(ROOT, 'tests', 'mutants'))
    import mutants
    for path in sorted(glob.glob(os.path.join(mutants.HERE, '*.mutant'))):
        for gone in mutants.Mutant(path).gone(ROOT):
            yield path, 1, gone + ': bring it up to date'


def check_layout(paths):
    done = subprocess.run([FORMATTER, '--dry-run', '--Werror', *paths], capture_output=True, text=True)
    for line in done.stderr.split('\n'):
        match = re.match(r'(.*?):(\d+):\d+: error: (.*)', line)
        if match:
            yield match.group(1), int(match.group(2)), match.group(3)


NAMED_TEST = re.compile(r'`((?:tests/)?(?:unit|system|fuzz|talk|sim)/\w+\.(?:c|py|talk|h))`(?: \(([^()]*)\))?')


def check_named_tests(text):
    """Each test that a page names exists, and has in it what the page names behind it: `system/test_x.py` (`word`, `other word`).
    A `*` or `...` at the end of such a word stands for the rest."""
    for number, line in enumerate(text.split('\n'), 1):
        for name, words in NAMED_TEST.findall(line):
            path = os.path.join(ROOT, 'tests', re.sub('^tests/', '', name))
            if not os.path.exists(path):
                yield number, f'there is no test {name}'
                continue
            with open(path, encoding='utf-8') as file:
                test = file.read()
            for word in re.findall(r'`([^`]+)`', words):
                if re.sub(r'(\*| ?\.\.\.)$', '', word) not in test:
                    yield number, f'{name} has no {word}'


def check_pages():
    for path in sorted(glob.glob(os.path.join(ROOT, '*.md')) + glob.glob(os.path.join(ROOT, 'docs', '**', '*.md'), recursive=True)):
        with open(path, encoding='utf-8') as file:
            yield path, list(check_named_tests(file.read()))


def main():
    findings, checked = [], 0
    layout, everything, parsers = [], [], parsers_table()
    for path in sources(SRC):
        room = os.path.relpath(path, SRC).split(os.sep)[0]
        if room not in ROOMS:
            findings.append((path, 1, f'folder {room} is no room of the table'))
            continue
        with open(path) as file:
            text = file.read()
        code = strip_comments(text)
        checked += 1
        if not path.endswith('.def'):
            layout.append(path)
        for check in (check_includes(path, room, text), check_sizes(path, code), check_calls(code),
                      check_verdicts(code)):
            findings += [(path, line, what) for line, what in check]
        if path.endswith('.h'):
            findings += [(path, line, what) for line, what in check_parsers(code, parsers)]
        everything.append(code)
    findings += [(PARSERS, line, what) for line, what in check_targets('\n'.join(everything), parsers)]
    findings += check_mutants()
    findings += check_layout(layout)
    for path, wrong in check_pages():
        checked += 1
        findings += [(path, line, what) for line, what in wrong]
    for path, line, what in findings:
        print(f'not ok {os.path.relpath(path, ROOT)}:{line}: {what}')
    bad = len({path for path, _, _ in findings})
    print(f'{checked - bad} passed, {bad} failed')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
