// The text of an answer: its Markdown, its tokens with their probabilities, and the tip beside a token.

import { byId, make } from "./dom.js";
import { markdownBlocks, plainBlocks } from "./markdown.js";

/** Gives tokens their places [start, end) in a text that they make from UTF-8 bytes, beginning at `from`. */
export class TokenPlacer {
    constructor(from) {
        this.end = from;
        this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    }

    /** A token that only begins a character has no place of its own. */
    place(token) {
        const start = this.end;
        const text = this.decoder.decode(token.bytes, { stream: true });
        this.end += text.length;
        return { start, end: this.end, text, logprob: token.logprob, tops: token.tops };
    }
}

/** Shows a text that grows: blocks that did not change since the last call keep their elements. */
export class AnswerText {
    constructor() {
        this.element = make("div", { class: "text" });
        this.shown = [];
        this.element.addEventListener("keydown", (event) => moveAmongTokens(event, this.element));
        this.element.addEventListener("pointerover", (event) => showTip(event.target));
        this.element.addEventListener("pointerout", hideTip);
        this.element.addEventListener("focusin", (event) => showTip(event.target));
        this.element.addEventListener("focusout", hideTip);
    }

    /** tokens: placed ones in order; style: "markdown", "plain", or "colour" for plain text on the colours of probabilities. */
    show(source, tokens, style) {
        const blocks = style === "markdown" ? markdownBlocks(source) : plainBlocks(source);
        if (style !== this.style) this.clear();
        this.style = style;
        this.element.classList.toggle("coloured", style === "colour");
        const last = blocks.length - 1;
        blocks.forEach((block, index) => {
            const text = source.slice(block.start, block.end);
            const before = this.shown[index];
            if (index < last && before?.text === text && before.start === block.start && before.tokens === tokens) return;
            const node = block.build((parent, start, end) => fillWithTokens(parent, source, tokens, start, end));
            if (before) before.node.replaceWith(node);
            else this.element.append(node);
            this.shown[index] = { text, start: block.start, tokens, node };
        });
        for (const { node } of this.shown.splice(blocks.length)) node.remove();
        const first = this.element.querySelector(".token");
        if (first && !this.element.querySelector(".token[tabindex='0']")) first.tabIndex = 0;
    }

    clear() {
        this.shown = [];
        this.element.replaceChildren();
    }
}

function fillWithTokens(parent, source, tokens, start, end) {
    let at = start;
    for (let index = firstAfter(tokens, start); index < tokens.length && tokens[index].start < end; index += 1) {
        const token = tokens[index];
        if (token.start === token.end) continue;
        const from = Math.max(token.start, at);
        const to = Math.min(token.end, end);
        if (from > at) parent.append(source.slice(at, from));
        const span = make("span", { class: "token", tabIndex: -1, token }, source.slice(from, to));
        span.style.setProperty("--p", Math.exp(token.logprob).toFixed(3));
        parent.append(span);
        at = to;
    }
    if (at < end) parent.append(source.slice(at, end));
}

/** Index of the first token that ends after `place`. */
function firstAfter(tokens, place) {
    let low = 0;
    let high = tokens.length;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (tokens[middle].end > place) high = middle;
        else low = middle + 1;
    }
    return low;
}

// ---- the tip

function showTip(target) {
    const token = target.token;
    if (!token) return;
    const tip = byId("tip");
    const row = (text, logprob, own) => make("tr", { class: own ? "own" : "" }, make("td", {}, make("code", {}, visible(text))),
        make("td", {}, percent(logprob)), make("td", {}, bar(logprob)));
    const others = token.tops.filter((top) => top.text !== token.text);
    tip.replaceChildren(make("table", {}, make("caption", {}, `Probability ${percent(token.logprob)}`),
        row(token.text, token.logprob, true), ...others.map((top) => row(top.text, top.logprob, false))));
    tip.hidden = false;
    target.setAttribute("aria-describedby", "tip");
    const place = target.getClientRects()[0];
    const below = place.bottom + tip.offsetHeight + 8 < innerHeight;
    tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, below ? place.bottom + 4 : place.top - tip.offsetHeight - 4)}px`;
}

export function hideTip() {
    byId("tip").hidden = true;
    document.querySelector("[aria-describedby='tip']")?.removeAttribute("aria-describedby");
}

function bar(logprob) {
    const filled = make("span", { class: "bar" });
    filled.style.width = `${(Math.exp(logprob) * 5).toFixed(2)}rem`;
    return filled;
}

function percent(logprob) {
    const share = Math.exp(logprob) * 100;
    return share >= 0.01 ? `${share.toPrecision(share >= 99.95 ? 4 : 3)} %` : "< 0.01 %";
}

function visible(text) {
    return text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣");
}

// One token of an answer is in the order of Tab; the arrow keys go on from it.
function moveAmongTokens(event, element) {
    const tokens = [...element.querySelectorAll(".token")];
    const at = tokens.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (at < 0 || !tokens[to]) return;
    event.preventDefault();
    tokens[at].tabIndex = -1;
    tokens[to].tabIndex = 0;
    tokens[to].focus();
}
