// A small Markdown: fenced code, headings, lists, rules, emphasis, inline code. Links and HTML stay text.
//
// Blocks and what is in them are ranges of the source, [start, end), so that the caller can tell which token a character is
// from. Any input takes time linear in its length, for a nesting of at most DEEPEST.

import { button, copy, make } from "./dom.js";

const DEEPEST = 8;
const FENCE = /^ *(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^(#{1,6}) +(?=\S)/;
const RULE = /^ *(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;

/** The source's blocks, {start, end, build(text)}: build makes the element, and text(parent, start, end) fills in a range. */
export function markdownBlocks(source) {
    return parse(source, linesOf(source), 0);
}

/** Lines as they are, for text that is not Markdown. */
export function plainBlocks(source) {
    return linesOf(source).map(({ start, end }) => ({
        start, end, build: (text) => filled(make("div", { class: "line" }), text, start, end),
    }));
}

function linesOf(source) {
    const lines = [];
    for (let start = 0; start < source.length;) {
        const newline = source.indexOf("\n", start);
        const end = newline < 0 ? source.length : newline;
        lines.push({ start, end });
        start = end + 1;
    }
    return lines;
}

function filled(parent, text, start, end) {
    text(parent, start, end);
    return parent;
}

// ---- blocks

function parse(source, lines, depth) {
    const blocks = [];
    for (let at = 0; at < lines.length;) {
        const line = source.slice(lines[at].start, lines[at].end);
        if (!line.trim()) {
            at += 1;
            continue;
        }
        const [count, build] = fence(source, lines, at, line) ?? heading(source, lines, at, line) ?? rule(line)
            ?? list(source, lines, at, line, depth) ?? paragraph(source, lines, at, depth);
        blocks.push({ start: lines[at].start, end: lines[at + count - 1].end, build });
        at += count;
    }
    return blocks;
}

function fence(source, lines, at, line) {
    const open = FENCE.exec(line);
    if (!open) return null;
    const indent = line.search(/\S/);
    const closes = ({ start, end }) => {
        const text = source.slice(start, end).trim();
        return text.length >= open[1].length && text === open[1][0].repeat(text.length);
    };
    let last = at + 1;
    while (last < lines.length && !closes(lines[last])) last += 1;
    const inside = lines.slice(at + 1, last);
    return [Math.min(last + 1, lines.length) - at, (text) => codeBlock(source, inside, indent, open[2].trim(), text)];
}

function codeBlock(source, lines, indent, language, text) {
    const code = make("code");
    for (const { start, end } of lines) {
        const blanks = source.slice(start, end).search(/\S|$/);
        const newline = Number(source[end] === "\n");  // the range's own, so that a token which ends in it keeps its place
        text(code, start + Math.min(blanks, indent), end + newline);
    }
    const copied = button("Copy", (event) => copy(code.textContent, event.currentTarget));
    const caption = make("figcaption", {}, make("span", {}, language), copied);
    return make("figure", { class: "code" }, caption, make("pre", { tabIndex: 0 }, code));
}

function heading(source, lines, at, line) {
    const marker = HEADING.exec(line);
    if (!marker) return null;
    const level = Math.min(marker[1].length + 2, 6);  // below the page's own headings
    return [1, (text) => inline(make(`h${level}`), source, lines[at].start + marker[0].length, lines[at].end, text)];
}

function rule(line) {
    return RULE.test(line) ? [1, () => make("hr")] : null;
}

function startsBlock(line, depth) {
    return !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEEPEST && ITEM.test(line));
}

function paragraph(source, lines, at, depth) {
    let count = 1;
    const starts = ({ start, end }) => startsBlock(source.slice(start, end), depth);
    while (at + count < lines.length && !starts(lines[at + count])) count += 1;
    return [count, (text) => inline(make("p"), source, lines[at].start, lines[at + count - 1].end, text)];
}

// An item reaches to the next line that is not blank and not indented deeper than its marker.
function list(source, lines, at, line, depth) {
    const first = ITEM.exec(line);
    if (!first || depth >= DEEPEST) return null;
    const ordered = /\d/.test(first[2]);
    const items = [];
    let next = at;
    while (next < lines.length) {
        const marker = ITEM.exec(source.slice(lines[next].start, lines[next].end));
        if (!marker || /\d/.test(marker[2]) !== ordered || marker[1].length > first[1].length) break;
        const inside = [{ start: lines[next].start + marker[0].length, end: lines[next].end }];
        const end = endOfItem(source, lines, next + 1, marker[1].length);
        for (const { start, end: stop } of lines.slice(next + 1, end)) {
            const blanks = source.slice(start, stop).search(/\S|$/);
            inside.push({ start: start + Math.min(blanks, marker[0].length), end: stop });
        }
        items.push(parse(source, inside, depth + 1));
        next = end;
    }
    const build = (text) => {
        const element = make(ordered ? "ol" : "ul", ordered ? { start: parseInt(first[2], 10) } : {});
        for (const blocks of items) {
            const item = element.appendChild(make("li"));
            for (const block of blocks) item.append(block.build(text));  // one by one: there may be more than a call takes
        }
        return element;
    };
    return [next - at, build];
}

function endOfItem(source, lines, from, indent) {
    let end = from;
    for (let at = from; at < lines.length; at += 1) {
        const blanks = source.slice(lines[at].start, lines[at].end).search(/\S/);
        if (blanks >= 0 && blanks <= indent) break;
        if (blanks >= 0) end = at + 1;
    }
    // blank lines between two items belong to the first
    let after = end;
    while (after < lines.length && !source.slice(lines[after].start, lines[after].end).trim()) after += 1;
    return after < lines.length && ITEM.test(source.slice(lines[after].start, lines[after].end)) ? after : end;
}

// ---- what is in a line

const TAGS = { "*": "em", _: "em", "**": "strong", __: "strong" };
const ESCAPED = /[\\`*_#+\-.!~[\](){}<>]/;

function inline(parent, source, start, end, text, depth = 0) {
    const head = source.slice(0, end);  // so that no search leaves the range
    const missing = new Set();  // delimiters that nothing closes from here on
    let plain = start;
    for (let at = start; at < end;) {
        const span = spanAt(head, at, missing, depth);
        if (!span) {
            at += 1;
            continue;
        }
        if (at > plain) text(parent, plain, at);
        if (span.tag === "code") filled(parent.appendChild(make("code")), text, span.start, span.end);
        else if (span.tag) inline(parent.appendChild(make(span.tag)), source, span.start, span.end, text, depth + 1);
        at = span.next;
        plain = span.tag ? at : span.start;  // what is escaped begins the next stretch of text
    }
    if (end > plain) text(parent, plain, end);
    return parent;
}

/** What begins there: {tag, start, end, next}; {start, next} for characters that are only text; null for nothing. */
function spanAt(head, at, missing, depth) {
    const char = head[at];
    if (char === "\\" && ESCAPED.test(head[at + 1] ?? "")) return { start: at + 1, next: at + 2 };
    if (char === "`") return codeSpan(head, at, missing);
    if ((char !== "*" && char !== "_") || depth >= DEEPEST || (char === "_" && isWord(head[at - 1]))) return null;
    return emphasis(head, at, head[at + 1] === char ? char + char : char, missing);
}

function codeSpan(head, at, missing) {
    const ticks = runLength(head, at);
    const mark = "`".repeat(ticks);
    for (let close = missing.has(mark) ? -1 : head.indexOf(mark, at + ticks); close >= 0; close = head.indexOf(mark, close)) {
        const run = runLength(head, close);
        if (run === ticks) return { tag: "code", start: at + ticks, end: close, next: close + ticks };
        close += run;
    }
    missing.add(mark);
    return { start: at, next: at + ticks };
}

function emphasis(head, at, mark, missing) {
    const start = at + mark.length;
    if (missing.has(mark) || /\s|^$/.test(head[start] ?? "")) return null;
    for (let close = head.indexOf(mark, start); close >= 0; close = head.indexOf(mark, close)) {
        const run = runLength(head, close);
        const end = close + run - mark.length;  // `***` ends what is inside first
        if (close > start && run >= mark.length && (mark.length === 2 || run !== 2) && !/\s/.test(head[close - 1])
            && !(mark[0] === "_" && isWord(head[close + run]))) {
            return { tag: TAGS[mark], start, end, next: close + run };
        }
        close += run;
    }
    missing.add(mark);
    return null;
}

function runLength(head, at) {
    let length = 1;
    while (head[at + length] === head[at]) length += 1;
    return length;
}

function isWord(char) {
    return char !== undefined && /[\p{L}\p{N}]/u.test(char);
}
