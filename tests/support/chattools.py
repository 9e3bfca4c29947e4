"""Chat templates like published ones, with tools, reasoning and content parts, and conversations that use all of these."""

import json
import random

from chatprep import HOSTILE, words

# Reasoning is written in the last answer alone, whether it stands in a field or in what is said; calls and results as JSON in tags.
THINKING = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
    {{- '<tools>' }}{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}{{ '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>' + '\\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set content = m.content if m.content is string else '' %}{% set reasoning = '' %}
        {%- if m.reasoning_content is string %}{% set reasoning = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + m.role + '\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
        {{- content.lstrip('\\n') }}
        {%- for call in m.tool_calls %}
            {%- if (loop.first and content) or not loop.first %}{{ '\\n' }}{% endif %}
            {%- if call.function %}{% set call = call.function %}{% endif %}
            {{- '<tool_call>\\n{"name": "' }}{{ call.name }}{{ '", "arguments": ' }}
            {%- if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif %}{{ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

# In the manner of Llama 3.1's: tools in the first user's message, calls of tools that it has by itself, names in headers.
PYTHON = """{{- bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0].role == 'system' %}{% set told = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}{% if tools is not none %}{{ "Environment: ipython\\n" }}{% endif %}
{{- "Today: " + date_string + "\\n\\n" + told + "<|eot_id|>" }}
{%- if documents %}{% for d in documents %}{{ '<|user|>' ~ d.title ~ ': ' ~ d.text | replace('\\n', ' ') ~ '<|eot_id|>' }}{% endfor %}{% endif %}
{%- for m in messages %}
    {%- if m.role in ['tool', 'ipython'] %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}{{ "<|eot_id|>" }}
    {%- elif m.tool_calls %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {%- if builtin_tools is defined and call.name in builtin_tools %}
            {{- "<|python_tag|>" + call.name + ".call(" }}
            {%- for name, value in call.arguments | items %}{{ name + '="' + value + '"' }}{% if not loop.last %}{{ ", " }}{% endif %}{% endfor %}
            {{- ")<|eom_id|>" }}
        {%- else %}{{ '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ "}<|eot_id|>" }}{% endif %}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + (' ' + m.name if m.name else '') + '<|end_header_id|>\\n\\n' }}
        {%- if loop.first and tools %}{% for t in tools %}{{ t | tojson(indent=4) + "\\n\\n" }}{% endfor %}{% endif %}
        {%- if m.thinking %}{{ '<think>' ~ m.thinking ~ '</think>' }}{% endif %}
        {{- m.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

# In the manner of Mistral's: no prompt for an answer, tools in front of the last user's message, calls and results as lists.
BRACKETS = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set messages = messages[1:] %}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.index0 == (messages | length) - 1 - ((messages | map(attribute='role') | list)[::-1]).index('user') %}{{ '<|user|>TOOLS ' ~ tools | tojson ~ '<|user|>' }}{% endif %}
        {{- '<|user|> ' + (told + '\\n\\n' if told is defined and loop.first else '') + m.content + ' [/INST]' }}
    {%- elif m.role == 'tool' %}{{- '<|user|>RESULT ' + {'content': m.content, 'call_id': m.tool_call_id} | tojson + '[/RESULT]' }}
    {%- else %}
        {%- if m.reasoning %}{{ ' [THINK]' + m.reasoning + '[/THINK]' }}{% endif %}
        {%- if m.content %}{{- ' ' + (m.content | trim) }}{% endif %}
        {%- if m.tool_calls %}
            {%- set all = namespace(list=[]) %}
            {%- for call in m.tool_calls %}{% set all.list = all.list + [dict(call.function, id=call.id)] %}{% endfor %}
            {{- ' [CALLS] ' + all.list | tojson(sort_keys=true, ensure_ascii=true) }}
        {%- endif %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}"""

# Messages of parts, macros, blocks around what is generated, an end of the turn behind the block in all turns but the last.
BLOCKS = """{%- macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}{{ part.text }}{% endfor %}{% endif %}{% endmacro -%}
{%- set head %}{{ bos_token }}{% if system_prompt is defined %}{{ system_prompt }}<|im_end|>{% endif %}{% endset %}{{ head }}
{%- if tools %}{{ '<|im_start|>tools\\n' ~ (tools | map(attribute='function') | map(attribute='name') | join(', ')) ~ '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>%s%s\\n' % (m.role, ' name=' + m.name if m.name is defined else '') }}
    {%- if m.role == 'assistant' %}
        {%- generation %}
            {%- if m.reasoning_content %}{{ '<think>{}</think>'.format(m.reasoning_content) }}{% endif %}{{ said(m.content or '') }}
            {%- for call in m.tool_calls or [] %}{{ '<tool_call>' ~ call.function.name ~ '(' }}{{ call.function.arguments.items() | map('join', '=') | join(', ') if call.function.arguments is mapping else call.function.arguments }}{{ ')</tool_call>' }}{% endfor %}
            {%- if loop.last %}<|im_end|>{% endif %}
        {%- endgeneration %}{% if not loop.last %}<|im_end|>{% endif %}{{ '\\n' }}
    {%- else %}{{ said(m.content) }}{{ '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# In the manner of GPT-OSS's: another token ends each sort of turn, the result's header has the name that the call has.
CHANNELS = """{%- macro call(m) %}{{ ' to=functions.' + m.tool_calls[0].function.name + '<|user|>' + m.tool_calls[0].function.arguments | tojson + '<|call|>' }}{% endmacro %}
{%- set last = namespace(name=none) %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- if m.thinking and not m.tool_calls and loop.last %}{{ '<|im_start|>assistant analysis<|user|>' + m.thinking + '<|end|>' }}{% endif %}
        {{- '<|im_start|>assistant' }}
        {%- if m.tool_calls %}{{ call(m) }}{% set last.name = m.tool_calls[0].function.name %}
        {%- else %}{{ ' final<|user|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}{% endif %}
    {%- elif m.role == 'tool' %}{{- '<|im_start|>functions.' + last.name + '<|user|>' + m.content + '<|end|>' }}
    {%- else %}{{- '<|im_start|>' + m.role + '<|user|>' + m.content + '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"""

TEMPLATES = {"thinking": THINKING, "python": PYTHON, "brackets": BRACKETS, "blocks": BLOCKS, "channels": CHANNELS}


def text(hostile=False):
    said = words(random.randint(1, 6)) + random.choice(["", ' "x"', "\\", " é✓", "\n\n", " </think> b", "'"])
    return "".join(random.choices(HOSTILE, k=2)) + said + random.choice(HOSTILE) if hostile else said


def value(hostile):
    return random.choice([lambda: text(hostile), lambda: 7, lambda: True, lambda: None, lambda: [text(hostile), 1.5],
                          lambda: {text(hostile): text(hostile)}])()  # fmt: skip


def tool(hostile=False):
    properties = {word: {"type": "string", "description": text(hostile)} for word in words(2).split()}
    return {"type": "function", "function": {"name": "get_" + words(1).strip(), "description": text(hostile),
                                             "parameters": {"type": "object", "properties": properties}}}  # fmt: skip


def call(hostile=False, texts_only=False):
    arguments = {words(1): text(hostile) if texts_only else value(hostile) for _ in range(random.randint(0, 3))}
    return {"id": words(1), "type": "function", "function": {"name": random.choice(["search", "get_x"]), "arguments": arguments}}


def parts(said):
    return [{"type": "text", "text": said}, {"type": "text", "text": said[:3]}]


def answer(hostile, name):
    message = {"role": "assistant", "content": text(hostile)}
    if random.random() < 0.5:
        message[random.choice(["reasoning_content", "thinking", "reasoning"])] = text(hostile)
    if random.random() < 0.3:
        message |= {"name": words(1), "id": 7, "created": {"at": text(hostile)}}
    if name == "blocks" and random.random() < 0.3:
        message["content"] = parts(message["content"])
    return message


def calling(hostile, name):
    count = 1 if name in ("python", "channels") else random.randint(1, 2)
    message = {"role": "assistant", "tool_calls": [call(hostile, name in ("python", "blocks")) for _ in range(count)]}
    if random.random() < 0.5:
        message["content"] = random.choice([None, text(hostile)])
    results = [{"role": "tool", "name": "f", "tool_call_id": words(1), "content": text(hostile)} for _ in message["tool_calls"]]
    return [message, *results]


def row(name, hostile=False):
    """A conversation, with fields beside it, for the template of that name."""
    messages = [{"role": "system", "content": text(hostile)}] if random.random() < 0.5 else []
    for _ in range(random.randint(1, 3)):
        messages.append({"role": "user", "content": text(hostile)})
        for _ in range(random.randint(0, 2)):
            messages += calling(hostile, name)
        messages.append(answer(hostile, name))
    found = {"messages": messages, "id": 5}
    if random.random() < 0.7:
        tools = [tool(hostile) for _ in range(random.randint(0, 2))]
        found["tools"] = random.choice([tools, json.dumps(tools), tools or None])
    if random.random() < 0.5:
        found["documents"] = [{"title": text(hostile), "text": text(hostile)}]
    arguments = {"enable_thinking": random.choice([True, False]), "builtin_tools": ["search"], "system_prompt": text(hostile)}
    if random.random() < 0.7:
        found["chat_template_kwargs"] = dict(random.sample(sorted(arguments.items()), random.randint(0, 3)))
    return found
