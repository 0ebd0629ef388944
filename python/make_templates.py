"""Write what transformers makes of small templates, one or more for each construction of the language.

    venv/bin/python python/make_templates.py [OUT]

OUT (jinja/tests/templates.json) gets the variables that all templates see and, by construction, each template
with its text, or with null where transformers refuses it. The templates are ours, in the constructions that
published ones use; `python/check_templates.py` renders published ones. The date is 26 July 2024.
"""

import datetime
import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "jinja/tests/templates.json"
DATE = datetime.datetime(2024, 7, 26)
VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": "Héllo <b>&'\"\n \x1c x"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None, True]}}}],
        },
    ],
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "s": "  a-b c\x1d",
    "n": 7,
    "x": 2.5,
    "l": [3, 1, 2],
    "m": {"b": 1, "a": {"x": "é", "<": "&"}},
    "words": "the Quick brown-fox's (jump) é ñ",
    "zero": 0,
}

# One expression a line, printed.
EXPRESSIONS = {
    "printing": r"""
true
True
none
None
False
1/2
1.0
1e16
1e15
1e-5
0.0001
0.1 + 0.2
5e-324
-0.0
1_000
[1, 'a', none, true, 1.0]
{'a': 1, 'b': none, 2: 'c'}
(1,)
(1, 2)
()
[]
{}
["a'b", 'a"b', 'a\'"b', 'é', '\x07', '\u200b', '\n\t\\', '😀', '\xa0', '\xad', 'e\u0301']
m
m.items()
m.keys()
m.values()
messages[2]
missing
[missing]
'a' ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ missing ~ 2
2 * 3 ~ 4
'a' ~ 'b' | upper
""",
    "numbers": r"""
4 // 3
-7 // 2
-7 % 3
7 % -3
-7.5 // 2
7.5 % -2
2 ** 3
2 ** -1
2 ** 0.5
-2 ** 2
2 ** 3 ** 2
10 / 2
1 / 3
100000000000000000000
1 + true
n - x
-n
+n
1 / 0
1 % 0
- 2 | abs
0x1f + 0b11 + 0o17
1.5e3
""",
    "percent": r"""
'%s is %d, %5.2f|%-6s|%06.2f|%+d|%x|%%' % ('a', 3, 2.345, 'b', 3.14159, 5, 255)
'%(a)s and %(b)r' % {'a': 4, 'b': 'é'}
'%s' % none
'%s' % [1, 'a']
'%5s|%-5s|%.2s|%05d|% d' % ('ab', 'ab', 'abc', -42, 7)
'%e %g %g %g %G' % (12345.678, 0.0001, 10000000000.0, 123456.0, 0.00001)
'%c%c %o %X %#x' % ('x', 65, 8, 255, 255)
'%d' % 3.9
'%*d' % (5, 3)
'%s' % missing
'%s %s' % ('a',)
'%d' % 'x'
'abc' % 1
'%s-%s' | format('a', 1)
'%(a)s' | format(a=1)
""",
    "format": r"""
'{} {}'.format(1, 'a')
'{0}{1}{0}'.format('a', 'b')
'{a[b]} {c.b}'.format(a={'b': 3}, c={'b': 4})
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:05d} {:,} {:.2f} {:x} {:#x} {:+}'.format(42, 1234567, 3.14159, 255, 255, 3)
'{:e} {:g} {:%} {:8.3f}|{:08.3f}'.format(1234.5, 0.00001, 0.25, 3.14159, -3.14159)
'{!r} {!s} {{}}'.format('a', 'b')
'{n} {}'.format(1, n=2)
'{:5}|{:<5}'.format(3, 3)
'{'.format()
'{}'.format()
""",
    "methods of strings": r"""
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.split(sep=',', maxsplit=1)
' a  b '.split()
'a b c'.split(none, 1)
'x\x1cy\x1f'.split()
'a b c'.rsplit(' ', 1)
'a</think>b</think>c'.rsplit('</think>', 1)[-1]
' a  b c '.rsplit(none, 1)
'a'.split('')
'abc'.partition('b')
'abc'.partition('x')
'abcb'.rpartition('b')
'abc'.rpartition('x')
'abc'.removeprefix('a') ~ 'abc'.removesuffix('c')
'abc'.index('c')
'abc'.index('x')
'abcabc'.find('b', 2)
'abc'.find('b', -2)
'éa'.find('a')
'abcabc'.rfind('b')
'abc'.find('x')
'abcabc'.count('bc') ~ 'abc'.count('')
'7'.zfill(3) ~ '-7'.zfill(4) ~ '+7'.zfill(2)
'a'.ljust(3) ~ '|' ~ 'a'.rjust(3, '.') ~ '|' ~ 'ab'.center(5) ~ '|' ~ 'abc'.center(6, '*')
'\x1c a \x1f'.strip() ~ '|' ~ ' a '.lstrip() ~ '|' ~ ' a '.rstrip()
'xyaxy'.strip('yx') ~ 'xxaxx'.lstrip('x') ~ 'xxaxx'.rstrip('x')
'a\nb\r\nc\x0bd\x1ce'.splitlines()
'a\nb'.splitlines(true)
'abc'.startswith(('x', 'a'))
'abc'.startswith('b', 1)
'abc'.endswith('bc')
'hello wORLD it\'s'.title() ~ 'hello wORLD'.capitalize() ~ 'aBc'.swapcase()
'ǆ'.title() ~ 'ﬁx'.capitalize() ~ 'ß'.upper() ~ 'ΑΣ'.lower() ~ 'İ'.lower()
'ΑΣ ΑΣ'.capitalize() ~ 'საქართველო'.title() ~ 'Ärger'.swapcase()
'Straße'.casefold() ~ 'ΑΣς'.casefold() ~ 'ı'.casefold()
'abc'.isalpha() ~ 'ab1'.isalpha() ~ 'ab1'.isalnum() ~ 'é'.isalpha() ~ ''.isalpha()
'12'.isdigit() ~ ''.isdigit() ~ '1a'.isdecimal() ~ '12'.isnumeric()
'ABC1'.isupper() ~ 'abc1'.islower() ~ '1'.islower()
' \x1c'.isspace() ~ ''.isspace() ~ 'abc'.isascii() ~ 'é'.isascii()
'-'.join(['1', '2']) ~ ','.join('abc')
'-'.join([1])
'abc'.replace('', '-') ~ 'aaa'.replace('a', 'b', 2)
s.upper()
s.upper is callable
s.foo
s.foo()
""",
    "methods of dictionaries and lists": r"""
m.get('q')
m.get('q', 5)
m.get('b')
m['items']()
m.copy()
m.update({'a': 1})
m.pop('a')
l.index(1)
l.index(9)
l.count(1)
l.copy()
l.append(4)
(1, 2).index(2)
messages[2].tool_calls[0].function.arguments.items() | list
dict(a=1)
dict([('a', 1)], b=2)
dict({'a': 1}, **{'b': 2})
""",
    "items and attributes": r"""
'abc'[0] ~ 'abc'[-1]
'abc'[5]
'abc'[1:] ~ 'abc'[::-1] ~ 'abcdef'[1:5:2] ~ 'abcdef'[-1:0:-2]
'abc'[:-10] ~ 'abc'[10:]
[1, 2, 3][-1]
[1, 2, 3][1:]
[1, 2, 3][5::-1]
messages[::-1][0].role
messages[1:][0]['role']
messages[9]
l.0
l.x
l['x']
m.a.x ~ m['a']['x']
m.foo
m.foo.bar
m['foo']
missing.x
missing[1:]
(1, 2)[0]
{1: 'x'}[true]
{'a': 1, 'a': 2}
{(1, 2): 3}
{[1]: 2}
none.foo
m.__class__
'a'.__class__
range(5)[1:3] | list
""",
    "tojson": r"""
messages[1] | tojson
messages[1] | tojson(indent=4)
messages | tojson(indent=2)
m | tojson
m | tojson(indent=2)
m | tojson(indent=4, sort_keys=true)
m | tojson(separators=(',', ':'))
m | tojson(ensure_ascii=true)
m | tojson(ensure_ascii=False)
m | tojson(indent='--')
m | tojson(indent=0)
m | tojson(indent=none)
'é"\\\n\x01\x7f😀/' | tojson
'é😀' | tojson(ensure_ascii=True)
[none, true, 1.0, 1e20, 1e-7, -0.0] | tojson
[[], {}] | tojson(indent=1)
(1, 2) | tojson
{1: 2, none: 3, true: 4, 1.5: 5} | tojson
missing | tojson
range(3) | tojson
{'b': 1, 'a': 2} | tojson(sort_keys=True)
""",
    "filters": r"""
s | trim
s | trim('a ')
'\x1c\x1d\x1e\x1fa\x1f' | trim
none | trim
5 | upper
words | title
words | capitalize
'ΑΣ-bC ა' | title
words | wordcount
words | truncate(12)
words | truncate(12, true)
words | truncate(12, true, '…')
words | truncate(12, false, '...', 0)
words | truncate(2)
'a b/é' | urlencode
{'a': 'b c/d'} | urlencode
words | length
missing | length
5 | length
l | sort
l | sort(reverse=true)
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | sort(case_sensitive=true)
[{'n': 2, 'm': 1}, {'n': 1, 'm': 1}] | sort(attribute='m,n')
[1, 'a'] | sort
l | first ~ l | last ~ 'abc' | first
[] | first
l | join(',') ~ l | join
['a', none, 1] | join('-')
messages | join('-', attribute='role')
m | list
'abc' | list
missing | list
l | reverse | list
'abc' | reverse
l | sum
[[1], [2]] | sum(start=[])
l | min ~ l | max
[] | max
['b', 'A'] | min
[{'n': 2}, {'n': 1}] | max(attribute='n')
l | map('string') | list
l | map('replace', 1, 'x') | list
messages | map(attribute='role') | list
messages | map(attribute='x', default='q') | list
[{'a': {'b': 1}}] | map(attribute='a.b') | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('content') | list | length
messages | selectattr('tool_calls', 'defined') | list | length
messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join
l | select('odd') | list
l | select('in', [1, 2]) | list
l | reject('gt', 1) | list
l | batch(2, 0) | list
l | slice(2, 9) | list
['a', 'A', 'b'] | unique | list
m | dictsort
{'b': 1, 'A': 2} | dictsort
{'b': 1, 'A': 2} | dictsort(true)
{'b': 2, 'A': 1} | dictsort(by='value', reverse=true)
m | items | list
missing | items | list
missing | default('b')
'' | default('b', true)
none | default('b')
none | d('b', boolean=true)
'42.7' | int
'x' | int
'x' | int(5)
'ff' | int(base=16)
2.9 | int
' 12 ' | int
'3.5' | float
'x' | float
42.55 | round
42.55 | round(1)
42.55 | round(1, 'floor')
42.55 | round(1, 'ceil')
2.5 | round
5 | round
-5.5 | abs
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2, true, true)
'a\nb' | indent('> ', first=true)
'a' | center(5)
1 | string
'aXbX' | replace('X', '-', 1)
123 | replace(2, '-')
m | attr('a')
'<a>&' | e
('<a>' | safe) ~ '<b>'
('<a>' | safe) + '<b>'
l | nothing
l | join(sep=',')
""",
    "tests": r"""
n is odd ~ n is even
n is divisibleby 7
n is number ~ true is number ~ true is integer ~ true is boolean ~ x is float
n is string ~ s is string
s is sequence ~ l is sequence ~ m is sequence ~ missing is sequence ~ none is sequence ~ 5 is sequence
m.items() is sequence ~ range(3) is sequence ~ (1, 2) is sequence
s is iterable ~ none is iterable ~ m is iterable ~ missing is iterable
m is mapping ~ l is mapping
missing is defined ~ missing is undefined ~ m.a is defined ~ m.q is defined
missing.x is defined
none is none ~ missing is none
1 is true ~ true is true ~ false is false
n is eq 7 ~ n is equalto(7) ~ n is ne 7 ~ n is gt 3 ~ n is lt 3 ~ n is ge 7 ~ n is le 7
'a' is in 'abc' ~ n is in [7]
'ABC' is upper ~ 'abc' is lower
range is callable
'tojson' is filter ~ 'nothing' is filter ~ 'odd' is test
n is not odd ~ n is not none
not n is odd
n is nothing
tools is not none
strftime_now is defined
""",
    "comparison and logic": r"""
1 == 1.0 ~ true == 1 ~ '1' == 1 ~ none == false
missing == other ~ missing == none
[1, 2] == [1, 2] ~ [1] == (1,)
{'a': 1} == {'a': 1.0}
1 < 2 < 3
1 < 3 > 2
'a' < 'b'
[1, 2] < [1, 3]
1 < 'a'
none < 1
1 in l ~ 9 not in l ~ 'b' in m ~ 'a' in 'abc'
1 in 'abc'
'x' in missing
'role' in messages[0]
not true ~ not missing
1 and 0
1 or 2
0 or ''
none and 1
'a' if true
'a' if false
'a' if false else 'b'
'a' if n > 30 else 'b' if n else 'c'
'a' + 'b' + 'c'
'a' + 1
1 + 'a'
[1] + [2]
(1,) + (2,)
[1] + (2,)
'a' * 3 ~ 3 * 'ab' ~ 'a' * -1
[0] * 3
'a' - 'b'
missing + 'a'
none + 'a'
""",
    "strings": r"""
"\x41\u00e9\n\t\q\'\"\\"
'\101\0'
'\é\😀'
'a' 'b' "c"
"a'b"
'\xg'
""",
    "functions": r"""
range(5) | list
range(2, 8, 3) | list
range(5, 0, -2) | list
range(*[1, 4]) | list
range(100001)
namespace(a=1).a
cycler('a', 'b').next()
raise_exception('no')
strftime_now('%d %b %Y')
strftime_now('%B %d, %Y')
strftime_now('%A %a %B %b %H:%M:%S %I %p %j %y %-d %e %U %W %V %G %u %w')
strftime_now('%c|%x|%X|%D|%F|%T|%R|%Z|%z|%f|%C|%h|%-m|%_d|%^a|%%')
""",
}

# Whole templates, which may span lines.
TEMPLATES = {
    "loops": [
        "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
        "{% for k, v in m.items() %}{{ k }}={{ v }}{% endfor %}",
        "{% for k in m %}{{ k }}{% endfor %}{% for c in 'abc' %}{{ c }}.{% endfor %}",
        "{% for i in [] %}x{% else %}empty{% endfor %}",
        "{% for i in l if i > 1 %}{{ i }}{{ loop.index }}{% endfor %}",
        "{% set ns = namespace(c=0) %}{% for i in l if ns.c < 2 %}{% set ns.c = ns.c + 1 %}{{ i }}{% endfor %}",
        "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% if i == 2 %}{% break %}{% endif %}{% endfor %}",
        "{% for i in [[1, [2, [3]]]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}{{ loop.depth }}{% endif %}{% endfor %}",
        "{% for i in range(4) %}{{ loop.cycle('a', 'b') }}{{ loop.changed(i // 2) }}{% endfor %}",
        "{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
        "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
        "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
        "{% for i in none %}a{% endfor %}",
        "{% for i in missing %}a{% else %}e{% endfor %}",
        "{{ loop.index }}",
        "{% set it = l | map('string') %}{{ it | first }}{{ it | list }}{{ it | list }}",
        "{% set it = messages | selectattr('role', 'equalto', 'user') %}{% for i in it %}1{% endfor %}{% for i in it %}2{% endfor %}",
    ],
    "names": [
        "{% set a = 1 %}{% for i in l %}{{ a }}{% set a = i %}{{ a }}{% endfor %}{{ a }}",
        "{% if true %}{% set a = 1 %}{% endif %}{{ a }}",
        "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}",
        "{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.b = i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns['a'] }}",
        "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
        "{% set n.x = 1 %}",
        "{% set ns = namespace(_a=1) %}",
        "{% set messages = messages[1:] %}{{ messages | length }}",
        "{% for i in l %}{% set messages = 3 %}{{ messages }}{% endfor %}{{ messages | length }}",
        "{% set a %}x{{ n }}y{% set b = 1 %}{% endset %}{{ a }}{{ b }}",
        "{% set a | upper | trim %} abc {% endset %}{{ a }}",
        "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
        "{% filter upper %}abc{{ n }}{% endfilter %}",
        "{% print n, s %}",
    ],
    "macros": [
        "{% macro f(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f() }}{{ f(1, 2, 3) }}",
        "{% macro f(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, q=4) }}",
        "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}",
        "{% macro f(a) %}{% endmacro %}{{ f(q=2) }}",
        "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(3) }}",
        "{% macro f() %}<{{ caller(5) }}>{% endmacro %}{% call(q) f() %}x{{ q }}{{ n }}{% endcall %}",
        "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ a }}{% endmacro %}{% set a = 5 %}{{ f() }}",
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}G{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
        "{{ f(1) }}{% macro f(a) %}{{ a }}{% endmacro %}",
        "{% macro f(a) %}{% set a = a + 1 %}{{ a }}{% endmacro %}{{ f(1) }}{{ a }}",
        "{% macro f() %}  text\n{% endmacro %}{{ f() | trim }}|{{ f().strip() }}|",
    ],
    "generation": [
        "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{{ bos_token }}{% endgeneration %}\n{% endfor %}",
        "x\n {%- generation -%} \n abc \n {%- endgeneration -%} \n y",
        "x\n  {% generation %}\nabc\n  {% endgeneration %}\ny",
        "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}",
        "{% generation %}",
    ],
    "white space": [
        "a {# c #} b\n  {# c #}\nc{#- d -#} e",
        "a\n  {%- if true %}\nb\n  {% endif %}\nc",
        "a\n  {%+ if true %}\nb{% endif +%}\nc",
        "  {% if true %}  x  {% endif %}  ",
        "a\x1c{%- if true -%}\x1f b {% endif %}",
        "{{- ' a ' -}} b",
        "line\r\nnext\rlast\n",
        "a\n\n",
        "{{ 'a\r\nb' }}",
        "{% raw %}{{ x }}{% endraw %}",
        "a\n  {%- raw -%}\n {{ x }}\n {%- endraw -%}\n b",
        "a\n  {% raw %}\n {{ x }}\n {% endraw %}\n b",
        "{%- for m in messages -%}\n  {{- m.role }}\n{%- endfor -%}\n\n  tail",
        "{%\nif true\n%}x{%\nendif\n%}",
        "{{ {'a': {'b': 1}}['a']['b'] }}}",
        "{{'{'}}{{ '}}' }}a}}b%}c#}",
        "{% block x %}hi{{ n }}{% endblock x %}",
    ],
    "refused": [
        "{% include 'x' %}",
        "{% foo %}",
        "{% if %}",
        "{{ }}",
        "{{ a b }}",
        "{{ (1 }}",
        "{{ 'a }}",
        "{% if true %}",
        "{% endif %}",
        "{# a",
        "{{ a",
        "{{ caller() }}",
        "{{ missing() }}",
        "{{ none() }}",
    ],
    "dates": [
        """\
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}
{%- else %}{%- set system = 'Cutting Knowledge Date: 2023. Today\\'s Date: ' + strftime_now('%B %d, %Y') + '.' %}{%- endif %}
{{- bos_token + system }} {{ strftime_now("%Y-%m-%d") if not date_string is defined else date_string }}""",
    ],
    # A tool's parameters as types, by a macro that calls itself.
    "schemas": [
        """\
{%- macro type(spec, required=[]) -%}
    {%- if spec.type == 'array' -%}
        {{- type(spec['items']) + '[]' }}
    {%- elif spec.type is iterable and spec.type is not string -%}
        {{- spec.type | map('replace', 'null', 'none') | join(' | ') }}
    {%- elif spec.type == 'object' -%}
        {{- '{\\n' }}
        {%- for name, inner in spec.properties.items() -%}
            {{- '  // %s' % inner.get('description', 'no word') ~ '\\n' }}
            {{- '  ' + name + ('?' if name not in spec.required else '') + ': ' ~ type(inner) }}
            {%- if inner.default is defined %}{{ ' = ' ~ inner.default | tojson }}{% endif %}
            {{- ',\\n' if not loop.last else '\\n' }}
        {%- endfor -%}
        {{- '}' }}
    {%- elif spec.enum -%}
        {{- '"' + spec.enum | join('" | "') + '"' }}
    {%- else -%}
        {{- spec.type or 'any' }}
    {%- endif -%}
{%- endmacro -%}
{%- set spec = {'type': 'object', 'required': ['place'], 'properties': {
    'place': {'type': 'string', 'description': 'a café'}, 'days': {'type': 'integer', 'default': 1},
    'units': {'type': ['string', 'null']}, 'list': {'type': 'array', 'items': {'type': 'number'}},
    'way': {'enum': ['on', 'off'], 'default': None}, 'rest': {}}} -%}
{{ type(spec) }}""",
    ],
}


def render(template):
    try:
        return _compile_jinja_template(template).render(**VARIABLES, strftime_now=DATE.strftime)
    except Exception:
        return None


if __name__ == "__main__":
    groups = {name: ["{{ " + line + " }}" for line in lines.strip("\n").split("\n")] for name, lines in EXPRESSIONS.items()}
    groups |= TEMPLATES
    cases = {name: [[template, render(template)] for template in group] for name, group in groups.items()}
    whole = {"variables": VARIABLES, "date": f"{DATE:%Y-%m-%d}", "cases": cases}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(whole, indent=0, ensure_ascii=False) + "\n")
    texts = [text for group in cases.values() for _, text in group]
    print(f"{len(texts)} templates, {texts.count(None)} of them refused")
