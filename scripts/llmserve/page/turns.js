// What a chat looks like: turns, each a prompt and the answers of the models side by side.

import { AnswerText } from "./answer.js";
import { button, copy, make } from "./dom.js";
import { probabilities } from "./settings.js";

const NONE = [];  // the same one each time, so that what is shown need not be made anew
const FINISHES = { length: "cut at the limit of tokens", stopped: "stopped", content_filter: "filtered" };

/** A turn. actions: {resend(index, text), retry(index, model), resume(index, model), changed()}; resend may answer false.
 * last: it is the chat's last. */
export class TurnView {
    constructor(turn, index, last, actions) {
        Object.assign(this, { turn, index, actions });
        this.answers = {};
        this.grid = make("div", { class: "answers" });
        this.element = make("article", { class: "turn" }, this.promptElement(last), this.grid);
        for (const [model, answer] of Object.entries(turn.answers)) this.show(model, answer, last);
    }

    /** The view of a model's answer, which is made or replaced. */
    show(model, answer, last) {
        const view = new AnswerView(model, answer, this, last);
        if (this.answers[model]) this.answers[model].element.replaceWith(view.element);
        else this.grid.append(view.element);
        this.answers[model] = view;
        this.grid.classList.toggle("several", this.grid.children.length > 1);
        return view;
    }

    /** For a setting that changed. */
    update() {
        Object.values(this.answers).forEach((answer) => answer.update(answer.busy));
    }

    promptElement(last) {
        const text = make("div", { class: "text" }, this.turn.prompt);
        const bar = make("div", { class: "bar-of-actions" });
        const element = make("section", { class: "prompt", "aria-label": "You" }, text, bar);
        const edit = () => editText(text, bar, this.turn.prompt, { label: last ? "Send" : "Send, dropping later turns" },
            (changed) => this.actions.resend(this.index, changed));
        bar.append(button("Edit", edit), button("Copy", (event) => copy(this.turn.prompt, event.currentTarget)));
        return element;
    }
}

class AnswerView {
    constructor(model, answer, { index, actions }, last) {
        Object.assign(this, { model, answer, index, actions, last });
        this.text = new AnswerText();
        this.error = make("p", { class: "error", role: "alert", hidden: true });
        this.note = make("span", { class: "note" });
        this.bar = make("div", { class: "bar-of-actions" });
        this.element = make("section", { class: "answer", "aria-label": `Answer of ${model}` },
            make("h2", {}, model), this.text.element, this.error, this.bar);
        this.update(false);
    }

    /** Shows the answer as it now is; busy: more will come. */
    update(busy) {
        const { answer } = this;
        const coloured = probabilities() === "colour" && answer.tokens?.length;
        // elements for the tokens of a long text would make every further piece slow: without colours they wait for its end
        const tokens = busy && !coloured ? NONE : answer.tokens ?? NONE;
        this.text.show(answer.text, tokens, coloured ? "colour" : answer.chat ? "markdown" : "plain");
        this.element.classList.toggle("busy", busy);
        this.text.element.hidden = !busy && !answer.text;
        this.error.hidden = !answer.error;
        this.error.textContent = answer.error ?? "";
        this.note.textContent = busy ? "" : [answer.speed, FINISHES[answer.finish]].filter(Boolean).join(" · ");
        if (busy !== this.busy) this.bar.replaceChildren(...(busy ? [] : this.buttons()), this.note);
        this.busy = busy;
    }

    /** The same at the next frame at the latest, for text that comes in small pieces. */
    updateSoon() {
        this.frame ??= requestAnimationFrame(() => {
            this.frame = undefined;
            if (this.busy) this.update(true);
        });
    }

    buttons() {
        const { answer, index, model, actions } = this;
        const copied = button("Copy", (event) => copy(answer.text, event.currentTarget));
        const edit = button("Edit", () => editText(this.text.element, this.bar, answer.text, { label: "Save" }, (text) => {
            Object.assign(answer, { text, tokens: [], error: undefined });
            this.busy = undefined;  // an empty answer has another row of buttons
            this.update(false);
            actions.changed();
        }));
        if (!this.last) return [copied, edit];
        const retry = button("Retry", () => actions.retry(index, model));
        return [copied, edit, retry, ...(answer.text ? [button("Continue", () => actions.resume(index, model))] : [])];
    }
}

/** Puts a field in the text's place, until it is cancelled or done(text) is not false. */
function editText(element, bar, text, { label }, done) {
    const close = () => {
        form.replaceWith(element);
        bar.hidden = false;
        bar.querySelector("button")?.focus();
    };
    const field = make("textarea", { value: text, "aria-label": "Edit", rows: Math.min(20, text.split("\n").length + 1) });
    const submit = (event) => {
        event.preventDefault();
        if (done(field.value) !== false) close();
    };
    const form = make("form", { class: "edit", onsubmit: submit }, field,
        make("div", { class: "row" }, make("button", {}, label), button("Cancel", close)));
    field.addEventListener("keydown", (event) => {
        if (event.key === "Escape") {
            event.stopPropagation();
            close();
        } else if (isSend(event)) submit(event);
    });
    element.replaceWith(form);
    bar.hidden = true;
    field.focus();
}

/** Enter, but neither with Shift nor where an input method takes it. */
export const isSend = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;
